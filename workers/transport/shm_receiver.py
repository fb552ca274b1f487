"""The end of a shared-memory channel that messages come out of; `workers.transport.shm` has the protocol."""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass

from dni_async.messages import Message
from workers.transport.base import (
    Deadline,
    PeerGone,
    Receiver,
    TransportError,
    TransportTimeout,
    wait_any,
)
from workers.transport.packets import (
    CREDIT,
    PACKET_BYTES,
    PEEK,
    QUIET,
    SPIN,
    check_open,
    hung_up,
    opened,
    poller,
    receive,
)
from workers.transport.slots import Slot
from workers.transport.wire import Header, WireError, assemble, decode


@dataclass(slots=True)
class Arrival:
    """A message that was received and not looked at yet."""

    stamp: int
    """What its sender stamped it with."""
    header: Header
    slot: Slot

    def message(self) -> Message:
        """The message; its tensors lie in the slot."""
        return assemble(self.header, self.slot.lend(self.header.specs))


class ShmReceiver(Receiver):
    """Made by `ShmListener.accept`."""

    spin = SPIN

    def __init__(self, peer: int, connection: socket.socket, capacity: int, pin: bool) -> None:
        self.peer = peer
        self._socket = connection
        connection.setblocking(False)
        self._poller = poller(connection)
        self._pin = pin
        self._slots: list[tuple[int, Slot] | None] = [None] * capacity
        self._received = 0
        self._released = 0

    def fileno(self) -> int:
        """The socket: messages and the peer's end arrive there."""
        return self._socket.fileno()

    def peer_gone(self) -> bool:
        """Whether the sender's socket is closed."""
        return hung_up(self._socket)

    def poll(self) -> bool:
        """Whether a packet waits."""
        check_open(self._socket)
        if not (news := self._poller.poll(0)):
            return False
        if news[0][1] == select.POLLIN:
            return True
        packet = receive(self._socket, 1, PEEK)  # the end, perhaps behind packets
        if packet and not packet[0]:
            raise self._gone()
        return bool(packet)

    def recv(self, timeout: float) -> Message:
        """The next message; its tensors lie in the sender's slot until `release`.

        Raises WireError or TransportError for a packet that makes no sense; the channel is useless then.
        """
        return self.arrive(timeout).message()

    def arrive(self, timeout: float) -> Arrival:
        """As `recv`, for who wants to look at the stamp first."""
        check_open(self._socket)
        packet = receive(self._socket, PACKET_BYTES + 1, descriptors=1)
        data, descriptor = packet or self._await_packet(timeout)
        if not data:
            raise self._gone()
        arrival = self._open(data, descriptor)
        self._received += 1
        return arrival

    def release(self) -> None:
        """Give the oldest slot back. A peer that is gone does not mind."""
        if self._released == self._received:
            raise TransportError("nothing to release (every received message was released already)")
        self._released += 1
        try:
            self._socket.send(CREDIT.pack(self._released), QUIET)
        except ConnectionError:
            pass

    def close(self) -> None:
        """Close the socket, forget the slots; tensors that view one stay valid memory."""
        self._socket.close()
        for entry in filter(None, self._slots):
            entry[1].drop()
        self._slots.clear()

    def _await_packet(self, timeout: float) -> tuple[bytes, int]:
        deadline = Deadline(timeout)
        while not (packet := receive(self._socket, PACKET_BYTES + 1, descriptors=1)):
            if not wait_any([self], deadline.left()):
                raise TransportTimeout(f"stage {self.peer} sent no message in {timeout:g} s")
        return packet

    def _gone(self) -> PeerGone:
        return PeerGone(f"stage {self.peer} closed its end (after {self._received} messages from it)")

    def _open(self, data: bytes, descriptor: int) -> Arrival:
        """Check everything."""
        fresh = Slot.attach(descriptor, self._pin) if descriptor >= 0 else None
        (index, generation, stamp), packed = opened(data)
        header = decode(packed)
        slot = self._slot(index, generation, fresh)
        if header.payload_bytes > slot.size:
            raise WireError(f"payload of {header.payload_bytes} bytes in a slot of {slot.size}")
        return Arrival(stamp, header, slot)

    def _slot(self, index: int, generation: int, fresh: Slot | None) -> Slot:
        if index >= len(self._slots):
            raise WireError(f"slot {index} of a channel with capacity {len(self._slots)}")
        known = self._slots[index]
        if fresh:
            if known:
                known[1].drop()
            self._slots[index] = (generation, fresh)
            return fresh
        if known is None or known[0] != generation:
            raise WireError(f"slot {index} in generation {generation} was never passed")
        return known[1]
