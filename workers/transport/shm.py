"""Channels between processes of one host: payloads in shared memory, everything else over a Unix socket.

    sender                               socket                             receiver
    take a free slot (make it, or a
    larger one, when needed)
    copy the tensors into the slot
    slot index, generation, header   ----------->  (+ descriptor if new)    map the slot if new
                                                                            use the tensors in place
    the slot is free again           <-----------  messages released        release()

One copy per message, whatever its size. There is nothing to clean up: slots are memfds, the socket is
SOCK_SEQPACKET in the abstract namespace, and both vanish with their processes. A dead peer is the
socket's end of file. The address is a string to publish: a random name and a random token; both sides
check that the other runs under the same user, and the receiver checks the token. Linux only; both
processes must share a network namespace.

A slot's memory is page-rounded and never shrinks; free slots are used last in, first out, and `ready`
takes credits in, so that a channel holds no more slots (and touches no more cache) than it had messages
in flight.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import struct
from collections import deque

from dni_async.messages import Message
from workers.copies import Event, copy_out, wait_for
from workers.transport.base import (
    Deadline,
    PeerGone,
    Receiver,
    Sender,
    TransportError,
    TransportTimeout,
    wait_any,
)
from workers.transport.queues import check_capacity
from workers.transport.slots import Slot
from workers.transport.wire import HEADER_BYTES, WireError, assemble, decode, encode

MAX_CAPACITY = 128
"""As many credits surely fit into a socket's buffer, so that `release` never waits."""

_HELLO = struct.Struct("<32sI")
"""Token, capacity: the sender's first packet."""
_PLACE = struct.Struct("<II")
"""Slot index, generation: they stand before every header."""
SPIN = 1e-3
"""Seconds: four times as long as it takes to be woken, where a message takes a twentieth."""
_CREDIT = struct.Struct("<Q")
"""Messages released since the beginning: the receiver's only packet."""
_DESCRIPTOR = struct.Struct("i")
_ROOM = socket.CMSG_LEN(_DESCRIPTOR.size)
"""For one descriptor. (socket.recv_fds and send_fds would do, but they ignore their flags.)"""
_PATIENCE = 1.0
"""Seconds that `close` waits for the receiver to take what waits for its copy."""
_UCRED = struct.Struct("3i")
_GROWTH = 1.25
_PACKET = _PLACE.size + HEADER_BYTES
_NOW = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)  # plain numbers: | on enums takes microseconds
_PEEK = int(socket.MSG_PEEK)
_QUIET = _NOW | int(socket.MSG_NOSIGNAL)


class ShmListener:
    """Waits at `address` for the sender of one channel. `pin` registers the slots with CUDA."""

    def __init__(self, peer: int, pin: bool = False) -> None:
        self.peer = peer
        self._pin = pin
        self._name, self._token = f"dni_async-{secrets.token_hex(16)}", secrets.token_hex(16)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(f"\0{self._name}")
        self._socket.listen()

    @property
    def address(self) -> str:
        """To be handed to `connect`, and to nobody else: it holds the channel's token."""
        return f"{self._name}/{self._token}"

    def accept(self, timeout: float) -> ShmReceiver:
        """The receiver of the one who knows the token; strangers are turned away. Closes the listener.

        Raises TransportTimeout when nobody came in `timeout` seconds; then it may be called again.
        """
        deadline = Deadline(timeout)
        while wait_any([self._socket], deadline.left()):
            connection, _ = self._socket.accept()
            capacity = self._check(connection, min(1.0, deadline.left()))
            if capacity:
                self.close()
                return ShmReceiver(self.peer, connection, capacity, self._pin)
            connection.close()
        raise TransportTimeout(f"stage {self.peer} did not connect in {timeout:g} s")

    def close(self) -> None:
        """Stop listening. May be called twice."""
        self._socket.close()

    def _check(self, connection: socket.socket, patience: float) -> int:
        """The channel's capacity; 0 for somebody else."""
        if not _same_user(connection) or not wait_any([connection], patience):
            return 0
        try:
            hello = connection.recv(_HELLO.size + 1, _NOW)
        except OSError:
            return 0
        if len(hello) != _HELLO.size:
            return 0
        token, capacity = _HELLO.unpack(hello)
        known = secrets.compare_digest(token, self._token.encode())
        return capacity if known and capacity <= MAX_CAPACITY else 0


def connect(address: str, peer: int, capacity: int, timeout: float, pin: bool = False) -> ShmSender:
    """The sender for a listener's `address`; returns without waiting for its `accept`.

    Raises PeerGone when nobody listens there, ValueError for a capacity out of 1..MAX_CAPACITY.
    """
    check_capacity(capacity, MAX_CAPACITY)
    name, _, token = address.partition("/")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(timeout)
        connection.connect(f"\0{name}")
        if not _same_user(connection):
            raise TransportError(f"address {name!r} belongs to another user")
        connection.send(_HELLO.pack(token.encode(), capacity))
    except TimeoutError:
        connection.close()
        raise TransportTimeout(f"stage {peer} took no connection in {timeout:g} s") from None
    except OSError as error:
        connection.close()
        raise PeerGone(f"stage {peer} does not listen at {name!r} ({error})") from None
    except TransportError:
        connection.close()
        raise
    return ShmSender(peer, connection, capacity, pin)


class ShmSender(Sender):
    """The end that messages go into; made by `connect`."""

    spin = SPIN
    copy_out = staticmethod(copy_out)

    def __init__(self, peer: int, connection: socket.socket, capacity: int, pin: bool) -> None:
        self.peer = peer
        self._socket = connection
        connection.setblocking(False)
        self._poller = _poller(connection)
        self._pin = pin
        self._slots: list[Slot | None] = [None] * capacity
        self._generations = [0] * capacity
        self._free = list(range(capacity - 1, -1, -1))
        self._flying: deque[int] = deque()
        self._leaving: deque[tuple[Event, bytes, Slot]] = deque()
        """Packets that wait for the copy into their slot, which a GPU makes in its own time."""

    def fileno(self) -> int:
        """The socket: credits and the peer's end arrive there."""
        return self._socket.fileno()

    def peer_gone(self) -> bool:
        """Whether the receiver's socket is closed."""
        return _hung_up(self._socket)

    def ready(self) -> bool:
        """Whether a slot is free."""
        _check_open(self._socket)
        if self._leaving:
            self._see_off(0.0)
        while self._poller.poll(0) and (packet := _receive(self._socket, _CREDIT.size + 1)):
            self._take_credit(packet[0])
        return bool(self._free)

    def send(self, message: Message, timeout: float) -> None:
        """Copy the tensors (on any device) into a slot and tell the receiver."""
        if not (self._free or self.ready()):  # who asked a moment ago shall not pay twice
            self._await_slot(timeout)
        header, tensors, specs = encode(message)
        index = self._free[-1]
        slot = self._fitting(index, specs[-1].offset + specs[-1].nbytes)
        copied = self.copy_out(slot.places(specs), tensors)
        self._leaving.append((copied, _PLACE.pack(index, self._generations[index]) + header, slot))
        self._flying.append(self._free.pop())
        self.sent += 1
        self._see_off(timeout)

    def flush(self, timeout: float) -> None:
        """Wait for the copies under way, and tell the receiver."""
        deadline = Deadline(timeout)
        for copied, _, _ in self._leaving:
            wait_for(copied, deadline.left())
        self._see_off(deadline.left())

    def held_bytes(self) -> int:
        """Bytes of all slots."""
        return sum(slot.size for slot in self._slots if slot)

    def close(self) -> None:
        """Close the socket, forget the slots; packets and slots under way live on."""
        if self._socket.fileno() >= 0:
            with contextlib.suppress(TransportError):  # who left, or hangs, gets nothing more
                self.flush(_PATIENCE)
        self._leaving.clear()
        self._socket.close()
        for slot in filter(None, self._slots):
            slot.drop()
        self._slots.clear()

    def _await_slot(self, timeout: float) -> None:
        deadline = Deadline(timeout)
        self.flush(deadline.left())
        while not self.ready():
            if not wait_any([self], deadline.left()):
                raise TransportTimeout(f"stage {self.peer} released no message in {timeout:g} s")

    def _take_credit(self, packet: bytes) -> None:
        if not packet:
            raise PeerGone(f"stage {self.peer} closed its end (after {self.sent} messages to it)")
        count = 0
        if len(packet) == _CREDIT.size:
            count = _CREDIT.unpack(packet)[0] - (self.sent - len(self._flying))
        if not 0 < count <= len(self._flying):
            raise TransportError(f"stage {self.peer} sent a credit that makes no sense ({packet!r})")
        for _ in range(count):
            self._free.append(self._flying.popleft())

    def _fitting(self, index: int, need: int) -> Slot:
        """The slot with this index, made or replaced if it is smaller than `need` bytes."""
        slot = self._slots[index]
        if slot is None or slot.size < need:
            grown = max(need, int(slot.size * _GROWTH)) if slot else need
            fresh = Slot.create(grown, self._pin)
            if slot:
                slot.drop()
            slot = self._slots[index] = fresh
            self._generations[index] += 1
        return slot

    def _see_off(self, timeout: float) -> None:
        """Tell the receiver of the messages whose copies are done, in order."""
        while self._leaving and self._leaving[0][0].query():
            _, packet, slot = self._leaving[0]
            self._tell(packet, slot, timeout)
            self._leaving.popleft()

    def _tell(self, packet: bytes, slot: Slot, timeout: float) -> None:
        passed = []
        if slot.descriptor >= 0:
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(slot.descriptor))]
        while True:
            try:
                self._socket.sendmsg([packet], passed, _QUIET)
                slot.forget_descriptor()
                return
            except BlockingIOError:
                if not _writable(self._socket, timeout):
                    raise TransportTimeout(f"stage {self.peer} reads nothing") from None
            except ConnectionError as error:
                raise PeerGone(f"stage {self.peer} closed its end ({error})") from None


class ShmReceiver(Receiver):
    """The end that messages come out of; made by `ShmListener.accept`."""

    spin = SPIN

    def __init__(self, peer: int, connection: socket.socket, capacity: int, pin: bool) -> None:
        self.peer = peer
        self._socket = connection
        connection.setblocking(False)
        self._poller = _poller(connection)
        self._pin = pin
        self._slots: list[tuple[int, Slot] | None] = [None] * capacity
        self._received = 0
        self._released = 0

    def fileno(self) -> int:
        """The socket: messages and the peer's end arrive there."""
        return self._socket.fileno()

    def peer_gone(self) -> bool:
        """Whether the sender's socket is closed."""
        return _hung_up(self._socket)

    def poll(self) -> bool:
        """Whether a packet waits."""
        _check_open(self._socket)
        if not (news := self._poller.poll(0)):
            return False
        if news[0][1] == select.POLLIN:
            return True
        packet = _receive(self._socket, 1, _PEEK)  # the end, perhaps behind packets
        if packet and not packet[0]:
            raise self._gone()
        return bool(packet)

    def recv(self, timeout: float) -> Message:
        """The next message; its tensors lie in the sender's slot until `release`.

        Raises WireError or TransportError for a packet that makes no sense; the channel is useless then.
        """
        _check_open(self._socket)
        packet = _receive(self._socket, _PACKET + 1, descriptors=1)
        data, descriptor = packet or self._await_packet(timeout)
        if not data:
            raise self._gone()
        message = self._open(data, descriptor)
        self._received += 1
        return message

    def release(self) -> None:
        """Give the oldest slot back. A peer that is gone does not mind."""
        if self._released == self._received:
            raise TransportError("nothing to release (every received message was released already)")
        self._released += 1
        try:
            self._socket.send(_CREDIT.pack(self._released), _QUIET)
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
        while not (packet := _receive(self._socket, _PACKET + 1, descriptors=1)):
            if not wait_any([self], deadline.left()):
                raise TransportTimeout(f"stage {self.peer} sent no message in {timeout:g} s")
        return packet

    def _gone(self) -> PeerGone:
        return PeerGone(f"stage {self.peer} closed its end (after {self._received} messages from it)")

    def _open(self, data: bytes, descriptor: int) -> Message:
        """Check everything, then make the message."""
        fresh = Slot.attach(descriptor, self._pin) if descriptor >= 0 else None
        if len(data) != _PACKET:
            raise WireError(f"packet of {len(data)} bytes where {_PACKET} were expected")
        header = decode(data[_PLACE.size :])
        index, generation = _PLACE.unpack_from(data)
        slot = self._slot(index, generation, fresh)
        if header.payload_bytes > slot.size:
            raise WireError(f"payload of {header.payload_bytes} bytes in a slot of {slot.size}")
        return assemble(header, slot.lend(header.specs))

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


def _receive(end: socket.socket, size: int, flags: int = 0, descriptors: int = 0) -> tuple[bytes, int] | None:
    """The next packet and its descriptor (or -1). None: nothing there; empty packet: the peer's end.

    The kernel reports the reset of a peer that left credits unread before the packets that it had sent,
    once; so a reset is asked again.
    """
    for _ in range(2):
        try:
            data, passed, _, _ = end.recvmsg(size, _ROOM * descriptors, _NOW | flags)
        except BlockingIOError:
            return None
        except ConnectionError:
            continue
        return data, _DESCRIPTOR.unpack(passed[0][2])[0] if passed else -1
    return b"", -1


def _same_user(end: socket.socket) -> bool:
    """Whether the process at the other end belongs to our user."""
    _, uid, _ = _UCRED.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(uid == os.getuid())


def _check_open(end: socket.socket) -> None:
    if end.fileno() < 0:
        raise TransportError("this end of the channel is closed")


def _poller(end: socket.socket) -> select.poll:
    """Asks whether `end` has anything to read, for less than the exception of a read that finds nothing."""
    poller = select.poll()
    poller.register(end.fileno(), select.POLLIN)
    return poller


def _hung_up(end: socket.socket) -> bool:
    return end.fileno() >= 0 and _poll(end, 0, 0.0)


def _writable(end: socket.socket, timeout: float) -> bool:
    return _poll(end, select.POLLOUT, timeout)


def _poll(end: socket.socket, events: int, timeout: float) -> bool:
    """Whether one of `events`, a hang-up or an error is there within `timeout` seconds."""
    poller = select.poll()
    poller.register(end.fileno(), events)
    return bool(poller.poll(timeout * 1e3))
