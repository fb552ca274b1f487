"""What outlives the process of a stage: made by its supervisor, inherited by every process that it forks."""

from __future__ import annotations

from dataclasses import dataclass

from workers.recovery.cell import Cell
from workers.recovery.outbox import Outbox
from workers.transport.shm import ShmListener


@dataclass(slots=True)
class Stable:
    """Memory and sockets of one stage."""

    journal: Cell
    record: Cell
    """What rank 0 knows of the run; the journal says which version counts."""
    words: Cell
    """The last words of a process that ended by an error of its own."""
    listeners: dict[int, ShmListener]
    """By neighbour."""
    outboxes: dict[int, Outbox]
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
    def create(cls, rank: int, world: int, capacity: int) -> Stable:
        """For stage `rank` of so many, whose channels hold `capacity` messages."""
        neighbours = [n for n in (rank - 1, rank + 1) if 0 <= n < world]
        return cls(
            Cell(),
            Cell(),
            Cell(),
            {n: ShmListener(n) for n in neighbours},
            {n: Outbox(capacity) for n in neighbours},
        )
