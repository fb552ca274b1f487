"""The sending end of a shared-memory channel; `workers.transport.shm` has the protocol."""

from __future__ import annotations

import contextlib
import socket
from collections import deque

from typing_extensions import override

from dni_async.messages import Message
from workers.runtime.accelerator import wait_for
from workers.transport.base import Deadline, PeerGone, Sender, TransportError, TransportTimeout
from workers.transport.cuda_copies import copy_out
from workers.transport.packets import (
    CREDIT,
    DESCRIPTOR,
    QUIET,
    SPIN_S,
    is_writable,
    receive,
)
from workers.transport.pool import InFlight, SlotPool
from workers.transport.sockets import check_open, is_hung_up, make_poller

_CLOSE_TIMEOUT_S = 1.0
"""How long `close` waits for the receiver to take messages whose copy was under way."""


class ShmSender(Sender):
    """Made by `shm.connect`. Messages that are in flight in the pool already are sent again, first of all."""

    spin_s = SPIN_S
    copy_out = staticmethod(copy_out)
    stamp = 0
    """A number that the next messages carry, by which a receiver can recognise them."""
    accepted = False
    """Whether the receiver has accepted this connection, as far as credits were read."""

    def __init__(self, peer: int, connection: socket.socket, pool: SlotPool) -> None:
        self.peer = peer
        self._socket = connection
        connection.setblocking(False)
        self._poller = make_poller(connection)
        self._pool = pool
        self._unsent: deque[InFlight] = deque(pool.in_flight)
        """Messages that wait for the copy into their slot, which a GPU makes in its own time."""
        self.sent = len(pool.in_flight)

    @override
    def fileno(self) -> int:
        return self._socket.fileno()

    @override
    def peer_gone(self) -> bool:
        return is_hung_up(self._socket)

    @override
    def ready(self) -> bool:
        check_open(self._socket)
        if self._unsent:
            self._send_copied(0.0)
        while self._poller.poll(0) and (packet := receive(self._socket, CREDIT.size + 1)):
            self._take_credit(packet[0])
        return self._pool.has_room()

    @override
    def send(self, message: Message, timeout: float) -> None:
        if not (self._pool.has_room() or self.ready()):  # the caller has mostly called `ready` just before
            deadline = Deadline(timeout)
            self.flush(deadline.left())
            self.await_ready(deadline)
        self._unsent.append(self._pool.put(message, self.stamp, self.copy_out))
        self.sent += 1
        self._send_copied(timeout)

    @override
    def flush(self, timeout: float) -> None:
        deadline = Deadline(timeout)
        while self._unsent:
            wait_for(self._unsent[0].copied, deadline.left())
            self._send_copied(deadline.left())

    @override
    def poke(self) -> bool:
        if self._unsent:
            self._send_copied(0.0)
        return bool(self._unsent)

    @override
    def pinned(self) -> bool | None:
        return self._pool.pinned()

    @override
    def held_bytes(self) -> int:
        return self._pool.held_bytes()

    def disconnect(self) -> None:
        """Close the socket; slots and messages in flight stay in the pool."""
        self._unsent.clear()
        self._socket.close()

    @override
    def close(self) -> None:
        if self._socket.fileno() >= 0:
            with contextlib.suppress(TransportError):  # a peer that left or hangs gets nothing more
                self.flush(_CLOSE_TIMEOUT_S)
        self.disconnect()
        self._pool.close()

    def _take_credit(self, packet: bytes) -> None:
        if not packet:
            raise PeerGone(f"stage {self.peer} closed its end (after {self.sent} messages to it)")
        count, in_flight = -1, len(self._pool.in_flight)
        if len(packet) == CREDIT.size:
            count = CREDIT.unpack(packet)[0] - (self.sent - in_flight)
        if not int(self.accepted) <= count <= in_flight:  # only the first credit may release nothing
            raise TransportError(f"stage {self.peer} sent a credit that makes no sense ({packet!r})")
        self.accepted = True
        self._pool.release(count)

    def _send_copied(self, timeout: float) -> None:
        """Send the packets of the messages whose copies are done, in order."""
        while self._unsent and self._unsent[0].copied.query():
            self._pool.on_send(self._unsent[0])
            self._send_packet(self._unsent[0], timeout)
            self._unsent.popleft()

    def _send_packet(self, in_flight: InFlight, timeout: float) -> None:
        slot, ancillary = self._pool.slot(in_flight.index), []
        if slot.descriptor >= 0:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, DESCRIPTOR.pack(slot.descriptor))]
        while True:
            try:
                self._socket.sendmsg([in_flight.packet], ancillary, QUIET)
                slot.forget_descriptor()
                return
            except BlockingIOError:
                if not is_writable(self._socket, timeout):
                    raise TransportTimeout(f"stage {self.peer} reads nothing") from None
            except ConnectionError as error:
                raise PeerGone(f"stage {self.peer} closed its end ({error})") from None
