"""The packets of the shared-memory transport, and the sockets that they go over.

hello     token, capacity                        the sender's first packet
message   slot, generation, stamp, header, seal  (+ descriptor if the slot is new)
credit    messages released on this connection   the receiver's only packet
"""

from __future__ import annotations

import os
import select
import socket
import struct
import zlib

from workers.transport.base import TransportError
from workers.transport.wire import HEADER_BYTES, WireError

HELLO = struct.Struct("<32sI")
"""Token, capacity."""
PLACE = struct.Struct("<IIQ")
"""Slot index, generation, stamp: they stand before every header."""
CREDIT = struct.Struct("<Q")
"""Messages released since the connection was made."""
SEAL = struct.Struct("<I")
"""CRC-32 of all before it: a wrong slot would be wrong data."""
PACKET_BYTES = PLACE.size + HEADER_BYTES + SEAL.size
SPIN = 1e-3
"""Seconds: four times as long as it takes to be woken, where a message takes a twentieth."""
DESCRIPTOR = struct.Struct("i")

_ROOM = socket.CMSG_LEN(DESCRIPTOR.size)
"""For one descriptor. (socket.recv_fds and send_fds would do, but they ignore their flags.)"""
_UCRED = struct.Struct("3i")
_NOW = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)  # plain numbers: | on enums takes microseconds
PEEK = int(socket.MSG_PEEK)
QUIET = _NOW | int(socket.MSG_NOSIGNAL)


def sealed(place: bytes, header: bytes) -> bytes:
    """The packet of a message."""
    packet = place + header
    return packet + SEAL.pack(zlib.crc32(packet))


def opened(packet: bytes) -> tuple[tuple[int, int, int], bytes]:
    """(slot, generation, stamp) and the header. Raises WireError when the packet is damaged."""
    if len(packet) != PACKET_BYTES:
        raise WireError(f"packet of {len(packet)} bytes where {PACKET_BYTES} were expected")
    if SEAL.unpack_from(packet, PACKET_BYTES - SEAL.size)[0] != zlib.crc32(packet[: -SEAL.size]):
        raise WireError("packet is damaged (checksum differs)")
    return PLACE.unpack_from(packet), packet[PLACE.size : -SEAL.size]


def receive(end: socket.socket, size: int, flags: int = 0, descriptors: int = 0) -> tuple[bytes, int] | None:
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
        return data, DESCRIPTOR.unpack(passed[0][2])[0] if passed else -1
    return b"", -1


def same_user(end: socket.socket) -> bool:
    """Whether the process at the other end belongs to our user."""
    _, uid, _ = _UCRED.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(uid == os.getuid())


def check_open(end: socket.socket) -> None:
    """Raises TransportError when we have closed it."""
    if end.fileno() < 0:
        raise TransportError("this end of the channel is closed")


def poller(end: socket.socket) -> select.poll:
    """Asks whether `end` has anything to read, for less than the exception of a read that finds nothing."""
    asked = select.poll()
    asked.register(end.fileno(), select.POLLIN)
    return asked


def hung_up(end: socket.socket) -> bool:
    """Whether the peer has closed its end; of what it sent, some may be unread."""
    return end.fileno() >= 0 and _poll(end, 0, 0.0)


def writable(end: socket.socket, timeout: float) -> bool:
    """Whether a packet can go out within `timeout` seconds (or would fail at once)."""
    return _poll(end, select.POLLOUT, timeout)


def _poll(end: socket.socket, events: int, timeout: float) -> bool:
    """Whether one of `events`, a hang-up or an error is there within `timeout` seconds."""
    asked = select.poll()
    asked.register(end.fileno(), events)
    return bool(asked.poll(timeout * 1e3))
