"""The packets of the shared-memory transport, and the sockets that they go over.

hello     token, capacity                       the sender's first packet
message   slot, generation, stamp, header       (+ descriptor if the slot is new)
credit    messages released on this connection  the receiver's only packet; the first (0) accepts the sender
"""

from __future__ import annotations

import os
import select
import socket
import struct

from workers.transport.sockets import make_poller
from workers.transport.wire import HEADER_BYTES

HELLO = struct.Struct("<32sI")
"""Token, capacity."""
PLACE = struct.Struct("<IIQ")
"""Slot index, generation, stamp: the prefix of every header."""
CREDIT = struct.Struct("<Q")
"""Messages released since the connection was made."""
PACKET_BYTES = PLACE.size + HEADER_BYTES
SPIN_S = 1e-3
"""`Channel.spin_s` of both ends."""
DESCRIPTOR = struct.Struct("i")

_ROOM = socket.CMSG_LEN(DESCRIPTOR.size)
"""Ancillary bytes of one descriptor. (socket.recv_fds and send_fds ignore their flags.)"""
_UCRED = struct.Struct("3i")
_NOW = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)  # plain numbers: | on enums takes microseconds
PEEK = int(socket.MSG_PEEK)
QUIET = _NOW | int(socket.MSG_NOSIGNAL)


def receive(end: socket.socket, size: int, flags: int = 0, descriptors: int = 0) -> tuple[bytes, int] | None:
    """The next packet and its descriptor (or -1); None if there is none, an empty packet if the peer left.

    If a peer leaves without reading its credits, the kernel reports the reset once, ahead of the packets that
    the peer had sent; so after a reset the socket is read again.
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
    """Whether the process at the other end runs under our user."""
    _, uid, _ = _UCRED.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(uid == os.getuid())


def is_writable(end: socket.socket, timeout: float) -> bool:
    """Whether a packet can go out within `timeout` seconds (or would fail at once)."""
    return bool(make_poller(end, select.POLLOUT).poll(timeout * 1e3))
