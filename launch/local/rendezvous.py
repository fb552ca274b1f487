"""Where ranks of one machine meet: a store that only this machine can reach.

(Every other rendezvous of torch listens on all interfaces, without authentication.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from typing_extensions import override

from workers.coordination.loopback import LOOPBACK, local_store

NAME = "dni_async-loopback"
"""Under which torch's launcher knows this backend."""
HOST = LOOPBACK
WATCH = "watch"
"""Name of the function that is called in each turn of the launcher's loop, in `rdzv_configs`."""


class LoopbackRendezvous(RendezvousHandler):
    """One node, whose ranks use the agent's own store, on the loopback interface.

    Args:
        port: 0 finds a free one.
        host: another address of this machine, where it emulates several hosts.
        watch: called in each turn of the launcher's loop, which asks this object for new nodes then.
    """

    def __init__(
        self, run_id: str, port: int = 0, host: str = HOST, watch: Callable[[], None] = lambda: None
    ) -> None:
        self._watch = watch
        self._run_id = run_id
        self._store = local_store(host, port)
        self.host, self.port = host, int(self._store.port)

    @property
    @override
    def use_agent_store(self) -> bool:
        return True

    @override
    def get_backend(self) -> str:
        return NAME

    @override
    def next_rendezvous(self) -> RendezvousInfo:
        store = dist.PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(self.host, self.port))

    @override
    def is_closed(self) -> bool:
        return False  # ranks may be started again

    @override
    def set_closed(self) -> None:
        pass  # there is no other node

    @override
    def num_nodes_waiting(self) -> int:
        self._watch()
        return 0

    @override
    def get_run_id(self) -> str:
        return self._run_id

    @override
    def shutdown(self) -> bool:
        return True


def register() -> str:
    """Register this backend with torch's launcher, and return its name. May be called twice."""
    rendezvous_handler_registry.register(NAME, _make)
    return NAME


def _make(parameters: RendezvousParameters) -> RendezvousHandler:
    host, _, port = parameters.endpoint.rpartition(":")
    return LoopbackRendezvous(parameters.run_id, int(port), host, parameters.config.get(WATCH, lambda: None))
