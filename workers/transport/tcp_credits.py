"""What the sending ends of TCP channels have in common: messages take slots, and credits free them.

send ──► slot taken ──► a thread writes ─────► receiver
         slot free  ◄── `ready` reads credits ◄── one byte for each released message
"""

from __future__ import annotations

import socket
from abc import ABC
from collections.abc import Sequence

from typing_extensions import override

from workers.transport.base import PeerGone, Sender, TransportError
from workers.transport.cuda_copies import copy_out
from workers.transport.pool import SlotPool
from workers.transport.sockets import check_open, is_hung_up, make_poller
from workers.transport.tcp_socket import NO_WAIT, cause, shut_down

CREDIT = b"\1"
"""One released message. Credits are the only bytes that a receiver sends, so they need no framing."""
MOST_CREDITS = 4096


class CreditedSender(Sender, ABC):
    """Reads the credits from the first of its connections."""

    copy_out = staticmethod(copy_out)

    def __init__(self, peer: int, connections: Sequence[socket.socket], pool: SlotPool) -> None:
        self.peer = peer
        self._connections = connections
        self._credits = connections[0]
        self._poller = make_poller(self._credits)
        self._pool = pool
        self._error: TransportError | None = None

    @override
    def fileno(self) -> int:
        return self._credits.fileno()

    @override
    def peer_gone(self) -> bool:
        return self._error is not None or is_hung_up(self._credits)

    @override
    def ready(self) -> bool:
        check_open(self._credits)
        while self._error is None and self._poller.poll(0):
            self._take_credits()
        if self._error is not None:
            raise type(self._error)(*self._error.args)  # a new one: a stored error would grow a traceback
        return self._pool.has_room()

    @override
    def pinned(self) -> bool | None:
        return self._pool.pinned()

    @override
    def held_bytes(self) -> int:
        return self._pool.held_bytes()

    def _take_credits(self) -> None:
        try:
            credits = self._credits.recv(MOST_CREDITS, NO_WAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        if not credits:
            self._fail(PeerGone(f"stage {self.peer} closed its end (after {self.sent} messages to it)"))
        elif credits.strip(CREDIT) or len(credits) > len(self._pool.in_flight):
            sent = f"stage {self.peer} sent credits that make no sense ({credits[:16]!r})"
            self._fail(TransportError(sent))
        else:
            self._pool.release(len(credits))

    def _fail(self, error: Exception) -> None:
        """End the channel; the first error stays. Whoever sleeps on the descriptor wakes."""
        if isinstance(error, OSError):
            error = PeerGone(f"stage {self.peer} is gone ({cause(error)})")
        elif not isinstance(error, TransportError):  # of CUDA, for instance: who waits for a thread must know
            error = TransportError(f"{type(error).__name__}: {error}")
        self._error = self._error or error
        shut_down(self._connections)
