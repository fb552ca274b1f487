"""One direction between two simulated stages: messages under way, credits, and the sender's uplink."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from launch.planning.simulator.base import MessageCost


@dataclass(slots=True)
class Uplink:
    """What carries all messages that one stage sends, downstream and upstream, one after the other."""

    free: float = 0.0
    """When it has carried all that was sent."""


class Channel:
    """One direction between two neighbours, bounded by credits."""

    __slots__ = ("arrivals", "capacity", "cost", "credits", "most", "out", "uplink")

    def __init__(self, cost: MessageCost, capacity: int, uplink: Uplink) -> None:
        self.cost, self.capacity, self.uplink = cost, capacity, uplink
        self.arrivals: deque[float] = deque()
        self.credits: deque[float] = deque()
        self.out = self.most = 0

    def send(self, now: float) -> float:
        """Put a message in, begun at `now`; return the time at which the sender is done with it."""
        done = now + self.cost.send
        self.uplink.free = max(done, self.uplink.free) + self.cost.wire
        self.arrivals.append(self.uplink.free + self.cost.latency)
        self.out += 1
        self.most = max(self.most, self.out)
        return done

    def take(self, now: float) -> float:
        """Take the oldest message; return the time at which the receiver has it."""
        self.arrivals.popleft()
        return now + self.cost.receive

    def release(self, now: float) -> float:
        """Give a message back; return the time at which the sender has its credit."""
        self.credits.append(now + self.cost.credit)
        return self.credits[-1]

    def has_room(self, now: float) -> bool:
        """Return whether another message may be sent."""
        while self.credits and self.credits[0] <= now:
            self.credits.popleft()
            self.out -= 1
        return self.out < self.capacity

    def ready(self, now: float) -> bool:
        """Return whether a message has arrived."""
        return bool(self.arrivals) and self.arrivals[0] <= now
