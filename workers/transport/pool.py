"""The slots of one channel, as its sender sees them: free, or holding a message that is in flight.

    reserve(bytes)    returns the next free slot, created or replaced if it is too small
    commit(message)   the slot holds this message now
    on_send(message)  the message is about to be sent
    release(2)        the receiver has released the two oldest messages: their slots are free

A slot's memory is rounded up to pages and never shrinks. The slot freed last is used first, so that a channel
holds no more slots (and touches no more cache) than it ever had messages in flight.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dni_async.messages import Message
from workers.runtime.accelerator import Event
from workers.transport.cuda_copies import CopyOut
from workers.transport.packets import PLACE
from workers.transport.slots import Slot
from workers.transport.wire import add_checksum, encode

_GROWTH = 1.25


@dataclass(slots=True)
class InFlight:
    """A message in a slot that the receiver has not released yet."""

    index: int
    """Index of the slot."""
    packet: bytes
    """What is sent to the receiver."""
    copied: Event
    """Done when the tensors are in the slot, so that the packet may be sent."""
    nbytes: int = 0
    """Size of the payload, which lies at the beginning of the slot."""
    logged: bool = False
    """Whether the message survives its sender (see `workers.recovery.send_log`)."""


class SlotPool:
    """At most `capacity` slots. `pin` registers them with CUDA."""

    def __init__(self, capacity: int, pin: bool = False) -> None:
        self.capacity = capacity
        self.in_flight: deque[InFlight] = deque()
        """Oldest first."""
        self.committed = 0
        """Number of messages so far."""
        self._pin = pin
        self._slots: list[Slot | None] = [None] * capacity
        self._generations = [0] * capacity
        self._free = list(range(capacity - 1, -1, -1))

    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def reserve(self, need: int) -> tuple[int, int, Slot]:
        """Index, generation and slot of the next free slot, which has at least `need` bytes."""
        index = self._free[-1]
        slot = self._slots[index]
        if slot is None or slot.size < need:
            fresh = self._make(index, max(need, int(slot.size * _GROWTH)) if slot else need)
            if slot:
                slot.close()
            slot = self._slots[index] = fresh
            self._generations[index] += 1
        return index, self._generations[index], slot

    def put(self, message: Message, stamp: int, copy_out: CopyOut) -> InFlight:
        """Put a message in flight, in the next free slot.

        Args:
            stamp: a number by which a receiver can recognise the message.
            copy_out: copies tensors into the slot.
        """
        header, tensors, specs = encode(message)
        size = specs[-1].offset + specs[-1].nbytes
        index, generation, slot = self.reserve(size)
        copied = copy_out(slot.places(specs), tensors)
        packet = add_checksum(PLACE.pack(index, generation, stamp) + header)
        in_flight = InFlight(index, packet, copied, size)
        self.commit(in_flight)
        return in_flight

    def commit(self, message: InFlight) -> None:
        """Put a message in flight, in the slot that `reserve` returned last."""
        self.committed += 1
        self.in_flight.append(message)
        self._free.pop()

    def release(self, count: int) -> None:
        """Free the slots of the `count` oldest messages."""
        for _ in range(count):
            self._free.append(self.in_flight.popleft().index)

    def on_send(self, message: InFlight) -> None:
        """Called when the tensors are in the slot, before the packet is sent."""
        return

    def slot(self, index: int) -> Slot:
        """The slot of a message in flight."""
        slot = self._slots[index]
        assert slot is not None, index
        return slot

    def payload(self, message: InFlight) -> memoryview:
        """The memory of a message's tensors."""
        return self.slot(message.index).memory(message.nbytes)

    def pinned(self) -> bool | None:
        """Whether all slots are pinned; None where none is to be."""
        return all(slot.pinned for slot in self._slots if slot) if self._pin else None

    def held_bytes(self) -> int:
        """Size of all slots, in bytes."""
        return sum(slot.size for slot in self._slots if slot)

    def close(self) -> None:
        """Free all slots. May be called twice."""
        for slot in filter(None, self._slots):
            slot.close()
        self._slots.clear()

    def _make(self, index: int, size: int) -> Slot:
        return Slot.create(size, self._pin)
