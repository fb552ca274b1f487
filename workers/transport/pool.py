"""The slots of one channel, as its sender sees them: free ones, and those in which a message flies.

    fit(bytes)      the next free slot, made or replaced if it is too small
    fly(message)    it is taken
    land(2)         the two oldest messages were released: their slots are free

A slot's memory is page-rounded and never shrinks; free slots are used last in, first out, so that a channel
holds no more slots (and touches no more cache) than it had messages in flight.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from workers.runtime.cuda_copies import Event
from workers.transport.slots import Slot

_GROWTH = 1.25


@dataclass(slots=True)
class InFlight:
    """A message that was sent and is not released yet."""

    index: int
    """Of its slot."""
    packet: bytes
    """What the receiver is told."""
    copied: Event
    """When its tensors are in the slot, and it may be told."""
    logged: bool = False
    """Whether it survives its sender (see `workers.recovery.send_log`)."""


class SlotPool:
    """At most `capacity` slots. `pin` registers them with CUDA."""

    def __init__(self, capacity: int, pin: bool = False) -> None:
        self.capacity = capacity
        self.in_flight: deque[InFlight] = deque()
        """Oldest first."""
        self.committed = 0
        """Messages so far."""
        self._pin = pin
        self._slots: list[Slot | None] = [None] * capacity
        self._generations = [0] * capacity
        self._free = list(range(capacity - 1, -1, -1))

    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def reserve(self, need: int) -> tuple[int, int, Slot]:
        """The next free slot, of `need` bytes at least: its index, its generation, and itself."""
        index = self._free[-1]
        slot = self._slots[index]
        if slot is None or slot.size < need:
            fresh = self._make(index, max(need, int(slot.size * _GROWTH)) if slot else need)
            if slot:
                slot.drop()
            slot = self._slots[index] = fresh
            self._generations[index] += 1
        return index, self._generations[index], slot

    def commit(self, message: InFlight) -> None:
        """A message has taken the slot that `fit` gave."""
        self.committed += 1
        self.in_flight.append(message)
        self._free.pop()

    def release(self, count: int) -> None:
        """So many messages were released."""
        for _ in range(count):
            self._free.append(self.in_flight.popleft().index)

    def on_send(self, message: InFlight) -> None:
        """Its tensors are in the slot, and the receiver is about to be told."""
        return

    def slot(self, index: int) -> Slot:
        """One that holds a message."""
        slot = self._slots[index]
        assert slot is not None, index
        return slot

    def held_bytes(self) -> int:
        """Bytes of all slots."""
        return sum(slot.size for slot in self._slots if slot)

    def drop(self) -> None:
        """Give all slots back. May be called twice."""
        for slot in filter(None, self._slots):
            slot.drop()
        self._slots.clear()

    def _make(self, index: int, size: int) -> Slot:
        return Slot.create(size, self._pin)
