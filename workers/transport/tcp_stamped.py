"""The ends of one TCP connection of a channel that outlasts its connections (`workers.recovery`).

    sender                                             receiver
    log a message, with its stamp
    stamp, header and payload  ---------------------->  Arrival
    its slot is free           <----- one byte: a credit -----  release()

They differ from `tcp_sender` and `tcp_receiver` in what a broken connection means: messages stay in the pool,
in flight, and go over the next connection again.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections import deque
from typing import Any

from typing_extensions import override

from dni_async.messages import Message
from workers.runtime.accelerator import wait_for
from workers.transport.base import Deadline, PeerGone
from workers.transport.packets import PLACE
from workers.transport.pool import InFlight, SlotPool
from workers.transport.shm_receiver import Arrival
from workers.transport.slots import Slot
from workers.transport.tcp_credits import CreditedSender
from workers.transport.tcp_receiver import TcpReceiver
from workers.transport.tcp_socket import configure, send_all, shut_down
from workers.transport.wire import Header

_PATIENCE = 4


def configure_stamped(connection: socket.socket, timeout: float) -> None:
    """As `configure`, but a connection that says nothing is given up after a quarter of the timeout: time is
    left for the next."""
    configure(connection, timeout / _PATIENCE)


class TcpStampedSender(CreditedSender):
    """Sends over one connection what is in flight in the pool, and what is sent from now on.

    A thread writes; the caller logs messages and reads credits, so it never waits for the connection.
    """

    stamp = 0
    """A number that the next messages carry, by which a receiver can recognise them."""
    accepted = True
    """The handshake has accepted this connection."""

    def __init__(self, peer: int, connection: socket.socket, pool: SlotPool) -> None:
        super().__init__(peer, [connection], pool)
        self._unsent: deque[InFlight] = deque(pool.in_flight)
        """Messages that wait for the copy into their slot, which a GPU makes in its own time."""
        self.sent = len(pool.in_flight)
        self._outbox: queue.SimpleQueue[InFlight | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"tcp to {peer}", daemon=True)
        self._thread.start()
        self._send_copied()

    @override
    def ready(self) -> bool:
        if self._unsent:
            self._send_copied()
        return super().ready()

    @override
    def send(self, message: Message, timeout: float) -> None:
        if not self._pool.has_room():
            deadline = Deadline(timeout)
            self.flush(deadline.left())
            self.await_ready(deadline)
        self._unsent.append(self._pool.put(message, self.stamp, self.copy_out))
        self.sent += 1
        self._send_copied()

    @override
    def flush(self, timeout: float) -> None:
        deadline = Deadline(timeout)
        while self._unsent:
            wait_for(self._unsent[0].copied, deadline.left())
            self._send_copied()

    @override
    def poke(self) -> bool:
        self._send_copied()
        return bool(self._unsent)

    def disconnect(self) -> None:
        """Close the connection; slots and messages in flight stay in the pool."""
        self._unsent.clear()
        self._outbox.put(None)
        shut_down(self._connections)  # wakes a thread that is still writing
        self._thread.join()
        self._credits.close()

    @override
    def close(self) -> None:
        self.disconnect()
        self._pool.close()

    def _send_copied(self) -> None:
        """Log the messages whose copies are done, in order, and let the thread send them."""
        while self._unsent and self._unsent[0].copied.query():
            self._pool.on_send(self._unsent[0])
            self._outbox.put(self._unsent.popleft())

    def _run(self) -> None:
        """Write messages until `disconnect`; the thread's body."""
        try:
            while message := self._outbox.get():
                send_all(self._credits, [message.packet, self._pool.payload(message)])
        except Exception as error:
            self._fail(error)


class TcpArrivals(TcpReceiver):
    """Receives over one connection messages that carry a stamp."""

    prefix_bytes = PLACE.size

    def __init__(self, peer: int, connection: socket.socket, capacity: int, pin: bool) -> None:
        super().__init__(peer, [connection], capacity, pin)

    def arrive(self, timeout: float) -> Arrival:
        """As `recv`, for a caller that needs the stamp before it takes the message."""
        arrival: Any = self.recv(timeout)
        assert isinstance(arrival, Arrival)
        return arrival

    def supersede(self) -> None:
        """End this connection, since the sender has made another; what has arrived can still be taken."""
        self._fail(PeerGone(f"stage {self.peer} has connected again"))

    @override
    def _received(self, packet: bytes, header: Header, slot: Slot) -> Any:
        return Arrival(PLACE.unpack_from(packet)[2], header, slot)
