"""How far a stage has come, written after every message: what the next process of the stage goes on from.

    recv 8        stamp = 8: what is sent now comes of message 8
    send, send
    release       commit: 8 was handled; the sender is told after that

Stamps are the numbers, from 1, of the messages of stage 0's stream. A channel brings each kind of message in
the order of stamps, so the last stamp of each kind tells which messages were taken. (Upstream, markers and
targets are in order each, and not together.)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from workers.recovery.atomic_buffer import AtomicBuffer
from workers.transport.base import Deadline, Sender

_KINDS = 4
"""Kinds of messages are 1 to 3 on the wire."""


class Journal:
    """The writer's side. What a process before this one wrote last is in `before`; None for the first.

    timeout: seconds for copies from a GPU that a commit waits for.
    """

    def __init__(self, cell: AtomicBuffer, timeout: float) -> None:
        self.before = last_entry(cell)
        self.stamp = 0
        """Of the message that is being handled."""
        self.senders: list[Sender] = []
        """The ways out; what they have sent must have left when the journal says that it has."""
        self.tell: Callable[[], dict[str, Any]] = dict
        """What an entry holds beside the stamps, JSON-able."""
        self._cell = cell
        self._version = cell.newest()[0]
        self._timeout = timeout
        self._taken: dict[str, list[int]] = self.before["taken"] if self.before else {}

    def taken(self, channel: str) -> list[int]:
        """By kind, the last stamp that was taken out of this channel; to be kept up by its receiver."""
        return self._taken.setdefault(channel, [0] * _KINDS)

    def commit(self) -> None:
        """All that was taken is handled, and all that came of it is sent."""
        deadline = Deadline(self._timeout)
        for sender in self.senders:
            sender.flush(deadline.left())
        self._version += 1
        self._cell.write(self._version, json.dumps(self.tell() | {"taken": self._taken}).encode())


def last_entry(cell: AtomicBuffer) -> dict[str, Any] | None:
    """What was committed last."""
    version, data = cell.newest()
    entry: dict[str, Any] | None = json.loads(data) if version else None
    return entry
