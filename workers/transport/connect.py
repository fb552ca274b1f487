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
import torch.distributed as dist

from dni_async.errors import UserError
from workers.coordination.collectives import start_group
from workers.coordination.rendezvous import Rendezvous
from workers.recovery.journal import Journal
from workers.recovery.reconnecting_channel import ReconnectingReceiver, ReconnectingSender
from workers.recovery.stable_storage import StableStorage
from workers.transport.base import Receiver, Sender
from workers.transport.dist import DistReceiver, DistSender, make_groups
from workers.transport.rpc import RpcReceiver, RpcSender, start_rpc, stop_rpc
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
    return choose_transports(asked, rendezvous.gather_hosts(timeout))


@contextmanager
def open_links(
    rendezvous: Rendezvous,
    transports: Sequence[str],
    capacity: int,
    timeout: float,
    device: torch.device,
    recovery: tuple[StableStorage, Journal] | None = None,
) -> Iterator[Links]:
    """This rank's links, by the transport of each; closed at the end.

    capacity: messages under way per channel. timeout: seconds for the neighbours to come, and for any
    message to be taken. After a failure nothing is closed: closing waits for peers, and the process
    is about to end anyway. recovery: of a supervised stage; then its links outlast their connections.

    Raises UserError when a supervised stage has a link that cannot.
    """
    stack = ExitStack()
    opener = _Opener(rendezvous, transports, capacity, timeout, device, stack)
    links = opener.lasting(*recovery) if recovery else opener.shm() | opener.dist() | opener.rpc()
    yield Links(links.get(rendezvous.rank - 1), links.get(rendezvous.rank + 1))
    stack.close()


@dataclass(slots=True)
class _Opener:
    """Opens the links of one transport after the other, all ranks in the same order."""

    rendezvous: Rendezvous
    transports: Sequence[str]
    capacity: int
    timeout: float
    device: torch.device
    stack: ExitStack

    def shm(self) -> dict[int, Link]:
        """Listen, publish the addresses, connect, accept; see the diagram above."""
        rank, pin = self.rendezvous.rank, self.device.type == "cuda"
        listeners = {n: ShmListener(n, pin) for n in self._neighbours("shm")}
        for n, listener in listeners.items():
            self.rendezvous.publish(f"shm/{n}-{rank}", listener.address)
        links = {}
        for n, listener in listeners.items():
            address = self.rendezvous.read(f"shm/{rank}-{n}", self.timeout)
            sender = connect(address, n, self.capacity, self.timeout, pin)
            links[n] = self._link(sender, listener.accept(self.timeout))
        return links

    def lasting(self, stable: StableStorage, journal: Journal) -> dict[int, Link]:
        """As `shm`, at the listeners and with the slots that outlive this process; who connects is a matter
        of the first message. Raises UserError for another transport."""
        if set(self.transports) - {"shm"}:
            names = ",".join(self.transports)
            raise UserError(f"the links are {names}; supervise needs all stages on one host, with shm links")
        rank, pin = self.rendezvous.rank, self.device.type == "cuda"
        for n, listener in stable.listeners.items():
            listener.pin = pin
            stable.outboxes[n].open(pin)
            self.rendezvous.publish(f"shm/{n}-{rank}", listener.address)
        links = {}
        for n, listener in stable.listeners.items():
            address = self.rendezvous.read(f"shm/{rank}-{n}", self.timeout)
            sender = ReconnectingSender(n, address, stable.outboxes[n], journal, self.timeout)
            links[n] = self._link(sender, ReconnectingReceiver(listener, journal, f"from {n}"))
            if n < rank:  # nobody could send the last marker again
                self.stack.callback(sender.drain, self.timeout)
        return links

    def dist(self) -> dict[int, Link]:
        """Make the groups of all links, which every rank of the job takes part in."""
        pairs = [(i, i + 1) for i, name in enumerate(self.transports) if name == "dist"]
        if not pairs:
            return {}
        start_group(self.rendezvous, self.timeout, torch.device("cpu"))
        self.stack.callback(dist.destroy_process_group)
        rank, groups = self.rendezvous.rank, make_groups(pairs, self.timeout, self.device)
        return {
            n: self._link(DistSender(n, groups[rank, n]), DistReceiver(n, groups[n, rank], self.capacity))
            for n in self._neighbours("dist")
        }

    def rpc(self) -> dict[int, Link]:
        """Join the rpc of all ranks."""
        if "rpc" not in self.transports:
            return {}
        rank = self.rendezvous.rank
        start_rpc(rank, self.rendezvous.world, self.timeout, attempt=self.rendezvous.restart)
        self.stack.callback(stop_rpc, self.timeout)
        return {
            n: self._link(RpcSender(rank, n, self.capacity), RpcReceiver(rank, n))
            for n in self._neighbours("rpc")
        }

    def _neighbours(self, transport: str) -> list[int]:
        rank = self.rendezvous.rank
        pairs = ((n, min(rank, n)) for n in (rank - 1, rank + 1) if 0 <= n < self.rendezvous.world)
        return [n for n, link in pairs if self.transports[link] == transport]

    def _link(self, sender: Sender, receiver: Receiver) -> Link:
        self.stack.enter_context(receiver)
        self.stack.enter_context(sender)  # closes first: its goodbye is what the peer's receiver waits for
        return Link(sender, receiver)
