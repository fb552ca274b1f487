"""Where ranks of one machine meet: a store that only this machine can reach.

(Every other rendezvous of torch listens on all interfaces, and asks nobody who he is.)
"""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

from workers.coordination.rendezvous import LOOPBACK, local_store

NAME = "dni_async-loopback"
"""Of this rendezvous backend, once it is registered."""
HOST = LOOPBACK


class LoopbackRendezvous(RendezvousHandler):
    """One node, whose ranks use the agent's own store, on the loopback interface; port 0 finds a free one.

    host: another address of this machine, where it emulates several hosts.
    """

    def __init__(self, run_id: str, port: int = 0, host: str = HOST) -> None:
        self._run_id = run_id
        self._store = local_store(host, port)
        self.host, self.port = host, int(self._store.port)

    @property
    def use_agent_store(self) -> bool:
        """Ranks find MASTER_ADDR and MASTER_PORT of this store in their environment."""
        return True

    def get_backend(self) -> str:
        """Its name."""
        return NAME

    def next_rendezvous(self) -> RendezvousInfo:
        """The only node is there."""
        store = dist.PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(self.host, self.port))

    def is_closed(self) -> bool:
        """Never: ranks may be started anew."""
        return False

    def set_closed(self) -> None:
        """Nobody else would come."""

    def num_nodes_waiting(self) -> int:
        """None."""
        return 0

    def get_run_id(self) -> str:
        """Of the job."""
        return self._run_id

    def shutdown(self) -> bool:
        """The store ends with the process."""
        return True


def register() -> str:
    """Let torch's launcher know this backend. Gives its name. May be called twice."""
    rendezvous_handler_registry.register(NAME, _make)
    return NAME


def _make(parameters: RendezvousParameters) -> RendezvousHandler:
    host, _, port = parameters.endpoint.rpartition(":")
    return LoopbackRendezvous(parameters.run_id, int(port), host)
