"""Endpoints that are no transport: the data and the report at stage 0, and targets ahead of their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from dni_async.messages import Marker, Message, TargetGradient
from workers.transport.base import PeerGone, Receiver, Sender
from workers.transport.forwarding import ForwardingReceiver


class Source(Receiver):
    """Gives stage 0 its batches and markers, one whenever it asks; never makes it wait."""

    peer = -1

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages

    def fileno(self) -> int:
        """Not to be waited on."""
        raise AssertionError("the source is always ready")

    def peer_gone(self) -> bool:
        """Never."""
        return False

    def poll(self) -> bool:
        """Always; the STOP marker is its last message."""
        return True

    def recv(self, timeout: float) -> Message:
        """The next batch or marker."""
        return next(self._messages)

    def release(self) -> None:
        """Nothing is lent."""

    def close(self) -> None:
        """Nothing to give back."""


class Sink(Sender):
    """Takes the markers that come back to stage 0."""

    peer = -1

    def __init__(self, report: Callable[[Marker], None]) -> None:
        self._report = report

    def fileno(self) -> int:
        """Not to be waited on."""
        raise AssertionError("the sink is always ready")

    def peer_gone(self) -> bool:
        """Never."""
        return False

    def ready(self) -> bool:
        """Always."""
        return True

    def send(self, message: Message, timeout: float) -> None:
        """Hand the marker to the report."""
        assert isinstance(message, Marker), message
        self._report(message)

    def held_bytes(self) -> int:
        """Nothing."""
        return 0

    def close(self) -> None:
        """Nothing to give back."""


class Drained(ForwardingReceiver):
    """Takes in whatever has arrived, so that the neighbour's way out has room while messages wait here.

    In lockstep a target waits for its turn, and markers queue behind it. Left in the channel they would
    fill it, the neighbour would take no more activations, and nobody's turn would ever come.

    first: messages that count as arrived before all others. The descriptor is quiet after `poll` even while
    messages wait here.
    """

    def __init__(self, receiver: Receiver, first: Iterable[Message] = ()) -> None:
        super().__init__(receiver)
        self.spin_s = 0.0  # a stage that waits for its turn leaves the core to the others
        self._kept: deque[Message] = deque(first)

    def poll(self) -> bool:
        """Take in what has arrived; whether a message waits here."""
        try:
            while self._receiver.poll():
                self._kept.append(self._take())
        except PeerGone:
            if not self._kept:
                raise
        return bool(self._kept)

    def recv(self, timeout: float) -> Message:
        """The oldest message, in memory of its own."""
        return self._kept.popleft() if self._kept else self._take(timeout)

    def release(self) -> None:
        """It was given back when it was taken in."""

    def _take(self, timeout: float = 0.0) -> Message:
        message = self._receiver.recv(timeout)
        if isinstance(message, TargetGradient):
            message.grad = message.grad.clone()
        self._receiver.release()
        return message
