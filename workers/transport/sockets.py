"""What the ends of a channel over a socket share, a Unix socket's or a TCP connection's."""

from __future__ import annotations

import select
import socket

from workers.transport.base import TransportError


def make_poller(end: socket.socket, events: int = select.POLLIN) -> select.poll:
    """A poller for what comes in: cheaper than the exception of a read that finds nothing."""
    poller = select.poll()
    poller.register(end.fileno(), events)
    return poller


def is_hung_up(end: socket.socket) -> bool:
    """Whether the peer has closed its end or is gone; some of what it sent may be unread."""
    return end.fileno() >= 0 and bool(make_poller(end, select.POLLRDHUP).poll(0))


def check_open(end: socket.socket) -> None:
    """Raises TransportError if we have closed this end."""
    if end.fileno() < 0:
        raise TransportError("this end of the channel is closed")
