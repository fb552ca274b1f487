"""Joins a stage to its neighbours: one link per pair, each over the transport that suits it.

    rank i                                        rank i+1
    listen for targets                            listen for activations
    publish the address  ----- store ----------   publish the address
    connect (activations out)                     connect (targets out)
    accept (targets in)                           accept (activations in)

Both listen before either connects, so that neither waits for a neighbour that waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from dni_async.errors import UserError
from workers.coordination.rendezvous import Rendezvous
from workers.recovery.journal import Journal
from workers.recovery.stable_storage import StableStorage
from workers.transport.links import Link, LinkRequest, check_links
from workers.transport.registry import choose_transports, find_transport


@dataclass(slots=True)
class Links:
    """The links of one stage; None where it has no neighbour."""

    upstream: Link | None
    downstream: Link | None


def agree_on_transports(
    rendezvous: Rendezvous, asked: str, timeout: float, encrypt: bool = False
) -> tuple[list[str], list[str]]:
    """The transport of each link, and the host of each rank; every rank must call it."""
    hosts = rendezvous.gather_hosts(timeout)
    return choose_transports(asked, hosts, encrypt), hosts


@contextmanager
def open_links(
    rendezvous: Rendezvous,
    transports: Sequence[str],
    capacity: int,
    timeout: float,
    device: torch.device,
    recovery: tuple[StableStorage, Journal] | None = None,
) -> Iterator[Links]:
    """This rank's links, closed at the end of the context.

    After a failure nothing is closed: closing waits for peers, and the process is about to end anyway.

    Args:
        transports: the transport of each link of the job.
        capacity: messages in flight per channel.
        timeout: seconds for the neighbours to come, and for any message to be taken.
        recovery: of a supervised stage, whose links outlast their connections.

    Raises:
        UserError: a supervised stage has a link that does not survive a restart.
    """
    stack = ExitStack()
    links: dict[int, Link] = {}
    for name in sorted(set(transports)):  # in the same order on all ranks
        transport = find_transport(name)
        if recovery and not transport.restartable:
            names = ",".join(transports)
            raise UserError(f"the links are {names}; supervise needs shm or tcp on each")
        pairs = [(i, i + 1) for i, each in enumerate(transports) if each == name]
        request = LinkRequest(rendezvous, pairs, capacity, timeout, device, stack, recovery)
        links |= check_links(transport, transport.open(request), request.neighbours)
    yield Links(links.get(rendezvous.rank - 1), links.get(rendezvous.rank + 1))
    stack.close()
