"""Links between neighbours, and what a transport has to provide: the base class for one of your own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
import torch.distributed as dist

from dni_async.contract import wrong_value
from dni_async.errors import UserError
from workers.coordination.rendezvous import Rendezvous
from workers.recovery.journal import Journal
from workers.recovery.reconnecting_channel import ReconnectingSender
from workers.recovery.stable_storage import StableStorage
from workers.transport.base import Receiver, Sender

_DONE = "links-done"
"""Key under which a supervised stage publishes that its loop has ended."""


@dataclass(slots=True)
class Link:
    """Both channels between a stage and one neighbour, as the stage holds them."""

    sender: Sender
    receiver: Receiver


@dataclass(slots=True)
class LinkRequest:
    """What a transport needs to open this rank's links over it."""

    rendezvous: Rendezvous
    """For publishing addresses to the neighbours."""
    pairs: list[tuple[int, int]]
    """(i, i + 1) for every link of the job over this transport, also those of other ranks."""
    capacity: int
    """Messages in flight per channel."""
    timeout: float
    """Seconds for the neighbours to come, and for any message to be taken."""
    device: torch.device
    """Where received tensors should be, if the transport can choose."""
    stack: ExitStack
    """What it closes, last first, is closed after a run that went well."""
    recovery: tuple[StableStorage, Journal] | None = None
    """Of a supervised stage, whose links outlast their connections."""

    @property
    def neighbours(self) -> list[int]:
        """Ranks to which this rank has a link over this transport."""
        rank = self.rendezvous.rank
        return [b if a == rank else a for a, b in self.pairs if rank in (a, b)]

    def link(self, sender: Sender, receiver: Receiver) -> Link:
        """The link of these two ends, which are closed at the end of the run."""
        self.stack.enter_context(receiver)
        self.stack.enter_context(sender)  # closes first: the peer's receiver waits for its end
        return Link(sender, receiver)


def drain_at_end(request: LinkRequest, neighbour: int, sender: ReconnectingSender) -> None:
    """Have a supervised stage end only when its messages were handled: nobody else could send them again.

        stage 0          stage 1
        --STOP------>    sends STOP back, and is killed before the journal says that it was handled
        <------STOP--
        drains           the next process needs STOP again
        --STOP------>    handles it, and ends

    A stage that is started again after its neighbour has handled all of them waits for nothing.
    """

    def has_ended() -> bool:
        try:
            return bool(request.rendezvous.peek(f"{_DONE}/{neighbour}"))
        except dist.DistNetworkError:  # the store is gone: the launcher has ended
            return True

    request.stack.callback(sender.drain, request.timeout, has_ended)


def publish_end(request: LinkRequest) -> None:
    """Have a supervised stage publish that it has handled all messages, before it closes any end.

    Call it when all links are open: what is registered last comes first at the end.
    """
    rendezvous = request.rendezvous

    def publish() -> None:
        with suppress(dist.DistNetworkError):  # the store is gone: nobody reads it any more
            rendezvous.publish(f"{_DONE}/{rendezvous.rank}", True)

    request.stack.callback(publish)


class Transport(ABC):
    """A way for messages between two stages. All ranks of a job call `open`, also one without such a link."""

    same_host_only = False
    """Whether both stages have to run on one host."""
    needs_trusted_network = False
    """Whether anybody who reaches its port could run code in the ranks."""
    encrypts = False
    """Whether nobody on the way can read what its links carry."""
    restartable = False
    """Whether its links survive the restart of a stage's process (--supervise)."""

    @abstractmethod
    def open(self, request: LinkRequest) -> dict[int, Link]:
        """Open this rank's links over this transport; returns them by the neighbour's rank.

        Both neighbours call it at the same time, so a rank should listen and publish its address
        (`request.rendezvous.publish`) before it reads and connects to its neighbour's.

        Raises:
            UserError: the transport cannot work here.
            Late: a neighbour did not come within `request.timeout` seconds.
        """


def check_links(transport: Transport, opened: object, neighbours: Sequence[int]) -> dict[int, Link]:
    """Return what `open` returned: a link to each neighbour, whose ends can be waited for.

    Raises UserError if it is something else.
    """
    wanted = f"a dict of a Link for each of the ranks {list(neighbours)}"
    if not isinstance(opened, dict):
        raise wrong_value(transport, "open", opened, wanted)
    if set(opened) != set(neighbours):
        returned = f"a dict with the keys {list(opened)}"
        raise UserError(f"{type(transport).__name__}.open returned {returned}; it must return {wanted}")
    for link in opened.values():
        if not isinstance(link, Link):
            raise wrong_value(transport, "open", link, wanted)
        for name, end, kind in (("sender", link.sender, Sender), ("receiver", link.receiver, Receiver)):
            if not isinstance(end, kind):
                raise wrong_value(transport, "open", end, f"a {kind.__name__}", f" as {name}")
            if type(descriptor := end.fileno()) is not int or descriptor < 0:
                raise wrong_value(end, "fileno", descriptor, "the number of an open file descriptor")
    return opened
