"""The end of a TCP channel that messages go into; `workers.transport.tcp` has the protocol."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Sequence
from typing import TypeAlias

from typing_extensions import override

from dni_async.messages import Message
from workers.transport.base import Deadline, PeerGone, Sender, TransportError
from workers.transport.cuda_copies import copy_out, wait_for
from workers.transport.pool import InFlight, SlotPool
from workers.transport.sockets import check_open, is_hung_up, make_poller
from workers.transport.tcp_socket import NO_WAIT, cause, half_close, send_all, shut_down
from workers.transport.wire import add_checksum, encode

CREDIT = b"\1"
"""One released message. Credits are the only bytes that a receiver sends, so they need no framing."""
MOST_CREDITS = 4096

Outbox: TypeAlias = "queue.SimpleQueue[tuple[InFlight, int] | None]"
"""Messages and the bytes of their payloads; None is the end."""


class TcpSender(Sender):
    """Made by `tcp.connect`. A thread per connection writes; `ready` reads the credits."""

    copy_out = staticmethod(copy_out)

    def __init__(
        self, peer: int, connections: Sequence[socket.socket], capacity: int, timeout: float, pin: bool
    ) -> None:
        self.peer = peer
        self._connections = connections
        self._credits = connections[0]
        self._poller = make_poller(self._credits)
        self._pool = SlotPool(capacity, pin)
        self._timeout = timeout
        self._error: TransportError | None = None
        self._outboxes: list[Outbox] = [queue.SimpleQueue() for _ in connections]
        self._threads = [
            threading.Thread(target=self._run, args=pair, name=f"tcp to {peer}", daemon=True)
            for pair in zip(connections, self._outboxes, strict=True)
        ]
        for thread in self._threads:
            thread.start()

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
    def send(self, message: Message, timeout: float) -> None:
        self.await_ready(Deadline(timeout))
        header, tensors, specs = encode(message)
        size = specs[-1].offset + specs[-1].nbytes
        index, _, slot = self._pool.reserve(size)
        in_flight = InFlight(index, add_checksum(header), self.copy_out(slot.places(specs), tensors))
        self._pool.commit(in_flight)
        self._outboxes[self.sent % len(self._outboxes)].put((in_flight, size))
        self.sent += 1

    @override
    def held_bytes(self) -> int:
        return self._pool.held_bytes()

    def close(self) -> None:
        """Wait until the receiver has read everything (at most the timeout), then give all back."""
        if self._credits.fileno() < 0:
            return
        deadline = Deadline(self._timeout)
        for outbox in self._outboxes:
            outbox.put(None)
        for thread in self._threads:
            thread.join(deadline.left())
        if self._error is None and deadline.left():
            self._await_end(deadline)
        shut_down(self._connections)  # wakes a thread that is still writing
        for connection in self._connections:
            connection.close()
        self._pool.close()

    def _await_end(self, deadline: Deadline) -> None:
        """Read until the receiver has seen our end: a socket that is closed with credits unread would reset
        the connection, and what is under way would be lost."""
        half_close(self._connections)
        for connection in self._connections:
            with contextlib.suppress(OSError):  # the receiver closed first, or does not answer in time
                connection.settimeout(max(deadline.left(), 1e-3))
                while connection.recv(MOST_CREDITS):
                    pass

    def _take_credits(self) -> None:
        try:
            credits = self._credits.recv(MOST_CREDITS, NO_WAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(PeerGone(f"stage {self.peer} is gone ({cause(error)})"))
            return
        if not credits:
            self._fail(PeerGone(f"stage {self.peer} closed its end (after {self.sent} messages to it)"))
        elif credits.strip(CREDIT) or len(credits) > len(self._pool.in_flight):
            sent = f"stage {self.peer} sent credits that make no sense ({credits[:16]!r})"
            self._fail(TransportError(sent))
        else:
            self._pool.release(len(credits))

    def _fail(self, error: TransportError) -> None:
        """End the channel; the first error stays. Whoever sleeps on the descriptor wakes."""
        self._error = self._error or error
        shut_down(self._connections)

    def _run(self, connection: socket.socket, outbox: Outbox) -> None:
        """Write the messages of one connection, until `close`; the thread's body."""
        try:
            while item := outbox.get():
                message, size = item
                wait_for(message.copied, self._timeout)
                send_all(connection, [message.packet, self._pool.slot(message.index).memory(size)])
        except TransportError as error:
            self._fail(error)
        except OSError as error:
            self._fail(PeerGone(f"stage {self.peer} is gone ({cause(error)})"))
        except Exception as error:  # of CUDA, for instance: whoever waits for this thread must know
            self._fail(TransportError(f"{type(error).__name__}: {error}"))
