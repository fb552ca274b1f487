"""Stage 0's way in, for a stage that keeps a journal."""

from __future__ import annotations

from collections.abc import Iterator

from dni_async.messages import Message
from workers.recovery.journal import Journal
from workers.runtime.endpoints import Source


class JournaledSource(Source):
    """Numbers the messages of the stream, and commits when one was handled.

    messages: the rest of the stream, behind what the journal says was handled.
    """

    def __init__(self, messages: Iterator[Message], journal: Journal) -> None:
        super().__init__(messages)
        self._journal = journal
        self._taken = journal.taken("source")

    def recv(self, timeout: float) -> Message:
        """The next batch or marker."""
        message = super().recv(timeout)
        self._taken[0] += 1
        self._journal.stamp = self._taken[0]
        return message

    def release(self) -> None:
        """It was handled."""
        self._journal.commit()
