"""The slots of a channel and a log of the messages in them, in memory that outlives the sender's process.

    supervisor                    sender's process             the next one, after a kill
    SendLog(capacity), fork  ---> recover(); reserve, commit
                                  on_send(message): logged
                                  killed                       recover(): logged messages are in flight again

A message is logged when its tensors are in the slot, before it is sent. Its record stands until the slot
takes the next message, so it may be of a released message: the receiver recognises and drops that.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from typing_extensions import override

from workers.runtime.accelerator import DONE
from workers.transport.packets import PACKET_BYTES, PLACE
from workers.transport.pool import InFlight, SlotPool
from workers.transport.slots import Slot

_NUMBER = struct.Struct("<Q")
"""Number of the message in the order of sending, from 1; 0 for an empty record."""
_SIZE = struct.Struct("<Q")
"""Bytes of its payload."""
_RECORD_BYTES = -(-(_NUMBER.size + _SIZE.size + PACKET_BYTES) // 8) * 8
"""Size of a slot's record; records are aligned, so that a number is written in one piece."""


class SendLog(SlotPool):
    """A `SlotPool` whose messages survive. Created by the supervisor, recovered in the sender's process."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._files = [Slot.reserve() for _ in range(capacity)]
        self._log = mmap.mmap(-1, capacity * _RECORD_BYTES)  # anonymous and shared with forked processes
        self._logged = 0

    def recover(self, pin: bool) -> None:
        """Put the messages in flight that an earlier process has logged."""
        super().close()
        super().__init__(self.capacity, pin)
        records = sorted((number, index) for index in range(self.capacity) if (number := self._number(index)))
        for number, index in records:
            start = index * _RECORD_BYTES + _NUMBER.size
            (size,) = _SIZE.unpack_from(self._log, start)
            packet = self._log[start + _SIZE.size : start + _SIZE.size + PACKET_BYTES]
            self._slots[index] = self._make(index, 1)
            self._generations[index] = PLACE.unpack_from(packet)[1]
            self.in_flight.append(InFlight(index, packet, DONE, size, logged=True))
            self._free.remove(index)
            self._logged = number

    @override
    def on_send(self, message: InFlight) -> None:
        if message.logged:
            return
        self._logged += 1
        start = message.index * _RECORD_BYTES
        end = start + _NUMBER.size
        self._log[start:end] = _NUMBER.pack(0)
        self._log[end : end + _SIZE.size + PACKET_BYTES] = _SIZE.pack(message.nbytes) + message.packet
        self._log[start:end] = _NUMBER.pack(self._logged)
        message.logged = True

    def on_connect(self) -> None:
        """Pass every slot again: the receiver of a new connection knows none."""
        for index, slot in enumerate(self._slots):
            if slot and slot.descriptor < 0:
                slot.descriptor = _duplicate(self._files[index])

    def destroy(self) -> None:
        """Free files and log; called by the supervisor, at the end. May be called twice."""
        self.close()
        while self._files:
            os.close(self._files.pop())
        self._log.close()

    def _number(self, index: int) -> int:
        return int(_NUMBER.unpack_from(self._log, index * _RECORD_BYTES)[0])

    @override
    def _make(self, index: int, size: int) -> Slot:
        return Slot.within(_duplicate(self._files[index]), size, self._pin)


def _duplicate(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
