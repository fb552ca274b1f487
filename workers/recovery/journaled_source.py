"""Stage 0's input, for a stage that keeps a journal."""

from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import override

from dni_async.messages import Message
from workers.recovery.journal import Journal
from workers.runtime.endpoints import Source


class JournaledSource(Source):
    """Numbers the messages of the stream, and commits each when it was handled.

    Args:
        messages: the rest of the stream, after what the journal says was handled.
    """

    def __init__(self, messages: Iterator[Message], journal: Journal) -> None:
        super().__init__(messages)
        self._journal = journal
        self._delivered = journal.delivered("source")

    @override
    def recv(self, timeout: float) -> Message:
        message = super().recv(timeout)
        self._delivered[0] += 1
        self._journal.stamp = self._delivered[0]
        return message

    @override
    def release(self) -> None:
        self._journal.commit()
