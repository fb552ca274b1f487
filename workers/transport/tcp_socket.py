"""The TCP sockets of a channel: their options, and reads and writes that leave nothing half done.

Dead peers are the kernel's business. A process that ends closes its sockets, which its peer reads as an end
of file or a reset at once. A host that vanishes says nothing: keepalive probes ask an idle one, and
TCP_USER_TIMEOUT ends a connection whose data or probes nobody acknowledges.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from workers.transport.base import Deadline

NO_SIGNAL = int(socket.MSG_NOSIGNAL)
NO_WAIT = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # plain numbers: | on enums takes microseconds
_WAIT_ALL = int(socket.MSG_WAITALL)
_LIMITS = Path("/proc/sys/net/core")
_ROUND_TRIP_OFFSET = 68
"""Of `tcpi_rtt`, in microseconds, in the kernel's tcp_info."""
_ENOUGH, _MOST = 1 << 21, 1 << 24
"""Bytes of a buffer. (The kernel doubles what it is given, and by itself goes to 4 or 6 MB as a rule.)"""


def configure(connection: socket.socket, timeout: float) -> None:
    """Make a connection blocking, prompt, wide, and watchful: a peer that vanishes is noticed within
    `timeout` seconds (or 3, as keepalive counts in whole seconds)."""
    beat = max(1, int(timeout / 8))
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, beat)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, beat)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(timeout * 750)))


def widen(connection: socket.socket) -> None:
    """Give the socket the largest buffers that the system allows. Call it before the connection is made: its
    first packets agree on the window's scale.

    A buffer that is set by hand no longer grows by itself, so it is only set where the system allows enough.
    """
    for option, limit in ((socket.SO_SNDBUF, "wmem_max"), (socket.SO_RCVBUF, "rmem_max")):
        with contextlib.suppress(OSError, ValueError):  # no /proc: leave it to the system
            most = int((_LIMITS / limit).read_text())
            if most >= _ENOUGH:
                connection.setsockopt(socket.SOL_SOCKET, option, min(most, _MOST))


def send_all(connection: socket.socket, buffers: Sequence[bytes | memoryview]) -> None:
    """Hand all bytes of the buffers to the kernel, waiting for room. Raises OSError."""
    left = [memoryview(buffer) for buffer in buffers]
    while left:
        count = connection.sendmsg(left, (), NO_SIGNAL)
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if left:
            left[0] = left[0][count:]


def receive_into(
    connection: socket.socket, buffer: bytearray | memoryview, deadline: Deadline | None = None
) -> bool:
    """Fill the buffer, waiting for the bytes. False when the peer closed its end before the first of them.

    Raises OSError, among them ConnectionResetError when the peer closed its end behind the first byte, and
    TimeoutError at the deadline.
    """
    view = memoryview(buffer)
    size = len(view)
    while view:
        if deadline:
            connection.settimeout(deadline.left() or 1e-3)
        count = connection.recv_into(view, len(view), _WAIT_ALL)
        if not count:
            if len(view) == size:
                return False
            raise ConnectionResetError("the connection ended in the middle of a message")
        view = view[count:]
    return True


def half_close(connections: Iterable[socket.socket]) -> None:
    """Say that nothing more will be sent; what was sent still arrives."""
    _shut(connections, socket.SHUT_WR)


def round_trip_s(connection: socket.socket) -> float:
    """Seconds to the peer and back, as the kernel has measured them."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ROUND_TRIP_OFFSET + 4)
    return float(struct.unpack_from("I", info, _ROUND_TRIP_OFFSET)[0]) / 1e6


def shut_down(connections: Iterable[socket.socket]) -> None:
    """End both directions, which also wakes threads that wait in a call on a connection."""
    _shut(connections, socket.SHUT_RDWR)


def cause(error: OSError) -> str:
    """A few words for the user."""
    return error.strerror or str(error) or type(error).__name__


def _shut(connections: Iterable[socket.socket], how: int) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):  # it is closed already
            connection.shutdown(how)
