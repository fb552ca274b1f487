"""What stands at stage 0 where the other stages have a neighbour: the data and the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dni_async.messages import Mark, Message
from workers.transport.base import Receiver, Sender


class Source(Receiver):
    """Gives stage 0 its batches and marks, one whenever it asks; never makes it wait."""

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
        """Always; the STOP mark is its last message."""
        return True

    def recv(self, timeout: float) -> Message:
        """The next batch or mark."""
        return next(self._messages)

    def release(self) -> None:
        """Nothing is lent."""

    def close(self) -> None:
        """Nothing to give back."""


class Sink(Sender):
    """Takes the marks that come back to stage 0."""

    peer = -1

    def __init__(self, report: Callable[[Mark], None]) -> None:
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
        """Hand the mark to the report."""
        assert isinstance(message, Mark), message
        self._report(message)

    def held_bytes(self) -> int:
        """Nothing."""
        return 0

    def close(self) -> None:
        """Nothing to give back."""
