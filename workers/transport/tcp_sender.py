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
from workers.runtime.accelerator import wait_for
from workers.transport.base import Deadline
from workers.transport.pool import InFlight, SlotPool
from workers.transport.tcp_credits import MOST_CREDITS, CreditedSender
from workers.transport.tcp_socket import half_close, send_all, shut_down
from workers.transport.wire import add_checksum, encode

Outbox: TypeAlias = "queue.SimpleQueue[InFlight | None]"
"""Messages; None is the end."""


class TcpSender(CreditedSender):
    """Made by `tcp.connect`. A thread per connection writes."""

    def __init__(
        self, peer: int, connections: Sequence[socket.socket], capacity: int, timeout: float, pin: bool
    ) -> None:
        super().__init__(peer, connections, SlotPool(capacity, pin))
        self._timeout = timeout
        self._outboxes: list[Outbox] = [queue.SimpleQueue() for _ in connections]
        self._threads = [
            threading.Thread(target=self._run, args=pair, name=f"tcp to {peer}", daemon=True)
            for pair in zip(connections, self._outboxes, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    @override
    def send(self, message: Message, timeout: float) -> None:
        self.await_ready(Deadline(timeout))
        header, tensors, specs = encode(message)
        size = specs[-1].offset + specs[-1].nbytes
        index, _, slot = self._pool.reserve(size)
        in_flight = InFlight(index, add_checksum(header), self.copy_out(slot.places(specs), tensors), size)
        self._pool.commit(in_flight)
        self._outboxes[self.sent % len(self._outboxes)].put(in_flight)
        self.sent += 1

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

    def _run(self, connection: socket.socket, outbox: Outbox) -> None:
        """Write the messages of one connection, until `close`; the thread's body."""
        try:
            while message := outbox.get():
                wait_for(message.copied, self._timeout)
                send_all(connection, [message.packet, self._pool.payload(message)])
        except Exception as error:
            self._fail(error)
