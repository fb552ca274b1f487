"""A channel's slots, and what flies in them, in memory that outlives the sender's process.

    supervisor                    sender's process          the next one, after a kill
    SendLog(capacity), fork  --->  open(); fit, fly
                                  leaves(message): logged
                                  killed                    open(): what was logged flies again

A message is logged when its tensors are in the slot, before the receiver is told. The log of a slot stands
until the next message in it, so it may be of one that was released: the receiver, who has taken it, drops it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from workers.runtime.cuda_copies import DONE
from workers.transport.packets import PACKET_BYTES, PLACE
from workers.transport.pool import InFlight, SlotPool
from workers.transport.slots import Slot

_NUMBER = struct.Struct("<Q")
"""Of a message in the order of sending, from 1; 0 where none is logged."""
_RECORD = -(-(_NUMBER.size + PACKET_BYTES) // 8) * 8
"""Bytes by slot in the log; numbers are aligned, so that each is written in one piece."""


class SendLog(SlotPool):
    """A `SlotPool` whose messages survive. Made by the supervisor, opened in the sender's process."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._files = [Slot.reserve() for _ in range(capacity)]
        self._log = mmap.mmap(-1, capacity * _RECORD)
        """Anonymous and shared: the processes that are forked off see the same."""
        self._logged = 0

    def open(self, pin: bool) -> None:
        """Take up what a process before this one has logged."""
        self.drop()
        super().__init__(self.capacity, pin)
        records = sorted((number, index) for index in range(self.capacity) if (number := self._number(index)))
        for number, index in records:
            at = index * _RECORD + _NUMBER.size
            packet = self._log[at : at + PACKET_BYTES]
            self._slots[index] = self._make(index, 1)
            self._generations[index] = PLACE.unpack_from(packet)[1]
            self.in_flight.append(InFlight(index, packet, DONE, logged=True))
            self._free.remove(index)
            self._logged = number

    def on_send(self, message: InFlight) -> None:
        """Log it, unless it was."""
        if message.logged:
            return
        self._logged += 1
        at = message.index * _RECORD
        self._log[at : at + _NUMBER.size] = _NUMBER.pack(0)
        self._log[at + _NUMBER.size : at + _NUMBER.size + PACKET_BYTES] = message.packet
        self._log[at : at + _NUMBER.size] = _NUMBER.pack(self._logged)
        message.logged = True

    def renew(self) -> None:
        """The next connection: its receiver knows no slot yet."""
        for index, slot in enumerate(self._slots):
            if slot and slot.descriptor < 0:
                slot.descriptor = _duplicate(self._files[index])

    def close(self) -> None:
        """Give files and log back; the supervisor's, at the end. May be called twice."""
        self.drop()
        while self._files:
            os.close(self._files.pop())
        self._log.close()

    def _number(self, index: int) -> int:
        return int(_NUMBER.unpack_from(self._log, index * _RECORD)[0])

    def _make(self, index: int, size: int) -> Slot:
        return Slot.within(_duplicate(self._files[index]), size, self._pin)


def _duplicate(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
