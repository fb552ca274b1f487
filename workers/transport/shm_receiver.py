"""The receiving end of a shared-memory channel; `workers.transport.shm` has the protocol."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from dataclasses import dataclass

from typing_extensions import override

from dni_async.messages import Message
from workers.transport.base import Deadline, PeerGone, Receiver, TransportError, TransportTimeout, wait_any
from workers.transport.packets import CREDIT, PACKET_BYTES, PEEK, PLACE, QUIET, SPIN_S, receive
from workers.transport.slots import Slot
from workers.transport.sockets import check_open, is_hung_up, make_poller
from workers.transport.wire import Header, WireError, assemble, decode


@dataclass(slots=True)
class Arrival:
    """A received message that was not assembled yet."""

    stamp: int
    """`ShmSender.stamp` when it was sent."""
    header: Header
    slot: Slot

    def message(self) -> Message:
        """The message; its tensors lie in the slot."""
        return assemble(self.header, self.slot.lend(self.header.specs))


class ShmReceiver(Receiver):
    """The receiving end of one connection over shared memory; `ShmListener.accept` makes it."""

    spin_s = SPIN_S

    def __init__(self, peer: int, connection: socket.socket, capacity: int, pin: bool) -> None:
        self.peer = peer
        self._socket = connection
        connection.setblocking(False)
        self._poller = make_poller(connection)
        self._pin = pin
        self._slots: list[tuple[int, Slot] | None] = [None] * capacity
        self._unreleased: deque[Slot] = deque()
        self._received = 0
        self._send_credit()  # accepts the sender

    @override
    def fileno(self) -> int:
        return self._socket.fileno()

    @override
    def peer_gone(self) -> bool:
        return is_hung_up(self._socket)

    @override
    def poll(self) -> bool:
        check_open(self._socket)
        if not (news := self._poller.poll(0)):
            return False
        if news[0][1] == select.POLLIN:
            return True
        packet = receive(self._socket, 1, PEEK)  # the peer has left, perhaps after packets that are unread
        if packet and not packet[0]:
            raise self._gone()
        return bool(packet)

    @override
    def recv(self, timeout: float) -> Message:
        return self.arrive(timeout).message()

    def arrive(self, timeout: float) -> Arrival:
        """As `recv`, for a caller that needs the stamp before it takes the message.

        Raises:
            WireError, TransportError: the packet makes no sense; the channel is useless then.
        """
        check_open(self._socket)
        packet = receive(self._socket, PACKET_BYTES + 1, descriptors=1)
        data, descriptor = packet or self._await_packet(timeout)
        if not data:
            raise self._gone()
        arrival = self._unpack(data, descriptor)
        self._received += 1
        self._unreleased.append(arrival.slot)
        return arrival

    @override
    def release(self) -> None:
        if not self._unreleased:
            raise TransportError("nothing to release (every received message was released already)")
        slot = self._unreleased.popleft()
        if slot.is_referenced():
            slot.leave_to_holders()
        self._send_credit()

    @override
    def close(self) -> None:
        """Close the socket and forget the slots; tensors that view a slot stay valid."""
        self._socket.close()
        for entry in filter(None, self._slots):
            entry[1].close()
        self._slots.clear()
        self._unreleased.clear()

    def _send_credit(self) -> None:
        with contextlib.suppress(ConnectionError):  # the peer has left
            self._socket.send(CREDIT.pack(self._received - len(self._unreleased)), QUIET)

    def _await_packet(self, timeout: float) -> tuple[bytes, int]:
        deadline = Deadline(timeout)
        while not (packet := receive(self._socket, PACKET_BYTES + 1, descriptors=1)):
            if not wait_any([self], deadline.left()):
                raise TransportTimeout(f"stage {self.peer} sent no message in {timeout:g} s")
        return packet

    def _gone(self) -> PeerGone:
        return PeerGone(f"stage {self.peer} closed its end (after {self._received} messages from it)")

    def _unpack(self, packet: bytes, descriptor: int) -> Arrival:
        """Check everything before anything is used."""
        new = Slot.attach(descriptor, self._pin) if descriptor >= 0 else None
        header = decode(packet, PLACE.size)
        index, generation, stamp = PLACE.unpack_from(packet)
        slot = self._slot(index, generation, new)
        if header.payload_bytes > slot.size:
            raise WireError(f"payload of {header.payload_bytes} bytes in a slot of {slot.size}")
        return Arrival(stamp, header, slot)

    def _slot(self, index: int, generation: int, new: Slot | None) -> Slot:
        if index >= len(self._slots):
            raise WireError(f"slot {index} of a channel with capacity {len(self._slots)}")
        known = self._slots[index]
        if new:
            if known:
                known[1].close()
            self._slots[index] = (generation, new)
            return new
        if known is None or known[0] != generation:
            raise WireError(f"slot {index} in generation {generation} was never passed")
        return known[1]
