"""What outlives the process of a stage: created by its supervisor, inherited by the processes it forks."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.recovery.atomic_buffer import AtomicBuffer
from workers.recovery.send_log import SendLog
from workers.transport.base import check_capacity
from workers.transport.shm import ShmListener


@dataclass(slots=True)
class StableStorage:
    """Memory and sockets of one stage."""

    listeners: dict[int, ShmListener]
    """By neighbour."""
    send_logs: dict[int, SendLog]
    """By neighbour."""
    journal: AtomicBuffer = field(default_factory=AtomicBuffer)
    record: AtomicBuffer = field(default_factory=AtomicBuffer)
    """State of rank 0's recorder; the journal says which version counts."""
    last_error: AtomicBuffer = field(default_factory=AtomicBuffer)
    """The line of an error by which a process of the stage ended."""
    restarts: int = 0
    """How often the stage was restarted."""

    @classmethod
    def create(cls, rank: int, world: int, capacity: int) -> StableStorage:
        """Storage for stage `rank` of `world`, whose channels hold `capacity` messages. Raises ValueError."""
        check_capacity(capacity)
        neighbours = [n for n in (rank - 1, rank + 1) if 0 <= n < world]
        return cls({n: ShmListener(n) for n in neighbours}, {n: SendLog(capacity) for n in neighbours})

    def close(self) -> None:
        """Free everything: a neighbour that connects from now on learns that the stage is gone."""
        for buffer in (self.journal, self.record, self.last_error):
            buffer.close()
        for listener in self.listeners.values():
            listener.close()
        for send_log in self.send_logs.values():
            send_log.destroy()
