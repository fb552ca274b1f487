"""Joins a stage to its neighbours: one link per pair, each over the transport that suits it.

    rank i                                        rank i+1
    listen for targets                            listen for activations
    publish the address  ----- store ----------   publish the address
    connect (activations out)                     connect (targets out)
    accept (targets in)                           accept (activations in)

Both listen before either connects, so nobody waits for a neighbour that waits for him.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from dni_async.errors import UserError
from workers.rendezvous import Rendezvous, host_identity
from workers.transport.base import Receiver, Sender
from workers.transport.shm import ShmListener, connect


@dataclass(slots=True)
class Link:
    """Both channels between a stage and one neighbour, as the stage holds them."""

    sender: Sender
    receiver: Receiver


@dataclass(slots=True)
class Links:
    """The links of one stage; None where it has no neighbour."""

    upstream: Link | None
    downstream: Link | None


def choose_transports(asked: str, hosts: Sequence[str]) -> list[str]:
    """The transport of each link between neighbours.

    asked: one name for all links, or one per link with commas; auto takes shm where both ranks are
    on one host, else dist. Raises UserError when the number of names is wrong or shm cannot work.
    """
    links = len(hosts) - 1
    names = asked.split(",")
    if len(names) == 1:
        names *= links
    if len(names) != links:
        raise UserError(f"transport {asked} names {len(names)} links, but {links + 1} stages have {links}")
    chosen = []
    for i, name in enumerate(names):
        same_host = hosts[i] == hosts[i + 1]
        if name == "shm" and not same_host:
            raise UserError(f"transport shm needs stages {i} and {i + 1} on one host; use auto or dist")
        chosen.append(("shm" if same_host else "dist") if name == "auto" else name)
    return chosen


def agree_on_transports(rendezvous: Rendezvous, asked: str, timeout: float) -> list[str]:
    """Tell the others where this rank runs, hear where they run, and choose alike."""
    rendezvous.publish(f"host/{rendezvous.rank}", host_identity())
    hosts = [rendezvous.read(f"host/{rank}", timeout) for rank in range(rendezvous.world)]
    return choose_transports(asked, hosts)


@contextmanager
def open_links(
    rendezvous: Rendezvous, transports: Sequence[str], capacity: int, timeout: float, device: torch.device
) -> Iterator[Links]:
    """This rank's links, by the transport of each; closed at the end.

    capacity: messages under way per channel. timeout: seconds for the neighbours to come.
    """
    rank, pin = rendezvous.rank, device.type == "cuda"
    neighbours = [n for n in (rank - 1, rank + 1) if 0 <= n < rendezvous.world]
    over_shm = [n for n in neighbours if transports[min(rank, n)] == "shm"]
    listeners = {n: ShmListener(n, pin) for n in over_shm}
    for n, listener in listeners.items():
        rendezvous.publish(f"shm/{n}-{rank}", listener.address)
    opened: dict[int, Link] = {}
    with ExitStack() as stack:
        for n in over_shm:
            address = rendezvous.read(f"shm/{rank}-{n}", timeout)
            sender = stack.enter_context(connect(address, n, capacity, timeout, pin))
            opened[n] = Link(sender, stack.enter_context(listeners[n].accept(timeout)))
        yield Links(opened.get(rank - 1), opened.get(rank + 1))
