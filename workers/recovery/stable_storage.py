"""What outlives the process of a stage: made by its supervisor, inherited by every process that it forks."""

from __future__ import annotations

from dataclasses import dataclass

from workers.recovery.atomic_buffer import AtomicBuffer
from workers.recovery.send_log import SendLog
from workers.transport.shm import ShmListener


@dataclass(slots=True)
class StableStorage:
    """Memory and sockets of one stage."""

    journal: AtomicBuffer
    record: AtomicBuffer
    """What rank 0 knows of the run; the journal says which version counts."""
    words: AtomicBuffer
    """The last words of a process that ended by an error of its own."""
    listeners: dict[int, ShmListener]
    """By neighbour."""
    outboxes: dict[int, SendLog]
    """By neighbour."""
    restarts: int = 0
    """How often the stage was started again."""

    def close(self) -> None:
        """The stage has ended: nobody listens any more. May be called twice."""
        for cell in (self.journal, self.record, self.words):
            cell.close()
        for neighbour, listener in self.listeners.items():
            listener.close()
            self.outboxes[neighbour].close()

    @classmethod
    def create(cls, rank: int, world: int, capacity: int) -> StableStorage:
        """For stage `rank` of so many, whose channels hold `capacity` messages."""
        neighbours = [n for n in (rank - 1, rank + 1) if 0 <= n < world]
        return cls(
            AtomicBuffer(),
            AtomicBuffer(),
            AtomicBuffer(),
            {n: ShmListener(n) for n in neighbours},
            {n: SendLog(capacity) for n in neighbours},
        )
