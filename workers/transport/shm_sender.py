"""The end of a shared-memory channel that messages go into; `workers.transport.shm` has the protocol."""

from __future__ import annotations

import contextlib
import socket
from collections import deque

from dni_async.messages import Message
from workers.runtime.cuda_copies import copy_out, wait_for
from workers.transport.base import Deadline, PeerGone, Sender, TransportError, TransportTimeout, wait_any
from workers.transport.packets import (
    CREDIT,
    DESCRIPTOR,
    PLACE,
    QUIET,
    SPIN,
    check_open,
    hung_up,
    poller,
    receive,
    sealed,
    writable,
)
from workers.transport.pool import InFlight, SlotPool
from workers.transport.wire import encode

_PATIENCE = 1.0
"""Seconds that `close` waits for the receiver to take what waits for its copy."""


class ShmSender(Sender):
    """Made by `shm.connect`. Messages that fly in the pool already are sent again, before all others."""

    spin = SPIN
    copy_out = staticmethod(copy_out)
    stamp = 0
    """A number that the next messages carry, for whoever has to know them again."""

    def __init__(self, peer: int, connection: socket.socket, pool: SlotPool) -> None:
        self.peer = peer
        self._socket = connection
        connection.setblocking(False)
        self._poller = poller(connection)
        self._pool = pool
        self._leaving: deque[InFlight] = deque(pool.in_flight)
        """Those that wait for the copy into their slot, which a GPU makes in its own time."""
        self.sent = len(pool.in_flight)

    def fileno(self) -> int:
        """The socket: credits and the peer's end arrive there."""
        return self._socket.fileno()

    def peer_gone(self) -> bool:
        """Whether the receiver's socket is closed."""
        return hung_up(self._socket)

    def ready(self) -> bool:
        """Whether a slot is free. Takes credits in, so that few slots are used."""
        check_open(self._socket)
        if self._leaving:
            self._see_off(0.0)
        while self._poller.poll(0) and (packet := receive(self._socket, CREDIT.size + 1)):
            self._take_credit(packet[0])
        return self._pool.has_room()

    def send(self, message: Message, timeout: float) -> None:
        """Copy the tensors (on any device) into a slot and tell the receiver."""
        if not (self._pool.has_room() or self.ready()):  # who asked a moment ago shall not pay twice
            self._await_slot(timeout)
        header, tensors, specs = encode(message)
        index, generation, slot = self._pool.reserve(specs[-1].offset + specs[-1].nbytes)
        copied = self.copy_out(slot.places(specs), tensors)
        in_flight = InFlight(index, sealed(PLACE.pack(index, generation, self.stamp), header), copied)
        self._pool.commit(in_flight)
        self._leaving.append(in_flight)
        self.sent += 1
        self._see_off(timeout)

    def flush(self, timeout: float) -> None:
        """Wait for the copies under way, and tell the receiver."""
        deadline = Deadline(timeout)
        for in_flight in self._leaving:
            wait_for(in_flight.copied, deadline.left())
        self._see_off(deadline.left())

    def held_bytes(self) -> int:
        """Bytes of all slots."""
        return self._pool.held_bytes()

    def hang_up(self) -> None:
        """Close the socket; slots and what flies in them stay in the pool."""
        self._leaving.clear()
        self._socket.close()

    def close(self) -> None:
        """Close the socket, forget the slots; packets and slots under way live on."""
        if self._socket.fileno() >= 0:
            with contextlib.suppress(TransportError):  # who left, or hangs, gets nothing more
                self.flush(_PATIENCE)
        self.hang_up()
        self._pool.drop()

    def _await_slot(self, timeout: float) -> None:
        deadline = Deadline(timeout)
        self.flush(deadline.left())
        while not self.ready():
            if not wait_any([self], deadline.left()):
                raise TransportTimeout(f"stage {self.peer} released no message in {timeout:g} s")

    def _take_credit(self, packet: bytes) -> None:
        if not packet:
            raise PeerGone(f"stage {self.peer} closed its end (after {self.sent} messages to it)")
        count, in_flight = 0, len(self._pool.in_flight)
        if len(packet) == CREDIT.size:
            count = CREDIT.unpack(packet)[0] - (self.sent - in_flight)
        if not 0 < count <= in_flight:
            raise TransportError(f"stage {self.peer} sent a credit that makes no sense ({packet!r})")
        self._pool.release(count)

    def _see_off(self, timeout: float) -> None:
        """Tell the receiver of the messages whose copies are done, in order."""
        while self._leaving and self._leaving[0].copied.query():
            self._pool.on_send(self._leaving[0])
            self._tell(self._leaving[0], timeout)
            self._leaving.popleft()

    def _tell(self, in_flight: InFlight, timeout: float) -> None:
        slot, passed = self._pool.slot(in_flight.index), []
        if slot.descriptor >= 0:
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, DESCRIPTOR.pack(slot.descriptor))]
        while True:
            try:
                self._socket.sendmsg([in_flight.packet], passed, QUIET)
                slot.forget_descriptor()
                return
            except BlockingIOError:
                if not writable(self._socket, timeout):
                    raise TransportTimeout(f"stage {self.peer} reads nothing") from None
            except ConnectionError as error:
                raise PeerGone(f"stage {self.peer} closed its end ({error})") from None
