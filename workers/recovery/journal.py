"""Which messages a stage has handled, written after each: where the next process of the stage starts.

    recv 8        stamp = 8: what is sent from now on was caused by message 8
    send, send
    release       commit: 8 was handled; only then the sender gets its credit

Stamps number the messages of stage 0's stream, from 1. A channel delivers each kind of message in the order
of stamps, so the last stamp of each kind tells which messages were delivered. (Upstream, markers and targets
are in order each, but not together.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from typing_extensions import override

from dni_async.messages import Message
from workers.recovery.atomic_buffer import AtomicBuffer
from workers.runtime.endpoints import Source
from workers.transport.base import Deadline, Sender

_KINDS = 4
"""Kinds of messages are 1 to 3 on the wire."""


class Journal:
    """The journal as the stage's process writes it.

    Attributes:
        before: the last entry of the process before this one; None in the first process.
        stamp: stamp of the message that is being handled.
        senders: sending ends of the stage, which are flushed before a commit.
        state_dict: returns what an entry holds beside the stamps, JSON-able.

    Args:
        timeout: seconds that a commit may wait for copies from a GPU.
    """

    def __init__(self, buffer: AtomicBuffer, timeout: float) -> None:
        self.before = last_entry(buffer)
        self.stamp = 0
        self.senders: list[Sender] = []
        self.state_dict: Callable[[], dict[str, Any]] = dict
        self._buffer = buffer
        self._version = buffer.newest()[0]
        self._timeout = timeout
        self._delivered: dict[str, list[int]] = self.before["delivered"] if self.before else {}

    def delivered(self, channel: str) -> list[int]:
        """By kind, the stamp of the last message that `channel` delivered; its receiver updates the list."""
        return self._delivered.setdefault(channel, [0] * _KINDS)

    def commit(self) -> None:
        """Write that every delivered message was handled, after what it caused was sent."""
        deadline = Deadline(self._timeout)
        for sender in self.senders:
            sender.flush(deadline.left())
        self._version += 1
        entry = self.state_dict() | {"delivered": self._delivered}
        self._buffer.write(self._version, json.dumps(entry).encode())


class JournaledSource(Source):
    """Stage 0's input: numbers the messages of the stream, and commits each when it was handled.

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


def last_entry(buffer: AtomicBuffer) -> dict[str, Any] | None:
    """The entry that was committed last; None if there is none."""
    version, data = buffer.newest()
    entry: dict[str, Any] | None = json.loads(data) if version else None
    return entry
