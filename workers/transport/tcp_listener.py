"""Lets the sender of a TCP channel in, and nobody else."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

from dni_async.errors import UserError
from workers.transport.base import Deadline, TransportError, TransportTimeout, Waitable
from workers.transport.handshake import (
    HELLO_BYTES,
    HandshakeError,
    Hello,
    check_hello,
    make_answer,
    make_challenge,
)
from workers.transport.tcp_receiver import TcpReceiver
from workers.transport.tcp_socket import NO_WAIT, cause, configure, shut_down, widen

_HANDSHAKE_TIMEOUT_S = 10.0
"""For who has connected to prove that it belongs to the job."""
_MOST_STRANGERS = 64
"""Connections whose handshake may be under way at a time; one more, and the oldest is turned away."""
_RETRY_INTERVAL_S = 0.1
"""Pause after a connection that could not be accepted for want of descriptors or memory."""


class TcpListener:
    """Waits at `address` for the sender of one channel.

    A thread takes connections from the start, as the sender's `connect` waits for its answers, and two
    neighbours that connect to each other must not wait for each other's `accept`.

    Args:
        peer: The sender's stage.
        host: Address to listen on; empty for all interfaces.
        secret: The channel's.
        timeout: Seconds after which a sender that does not answer counts as gone.
        pin: Register the receiver's slots with CUDA.

    Raises UserError when this host has no such address.
    """

    def __init__(self, peer: int, host: str, secret: bytes, timeout: float, pin: bool = False) -> None:
        self.peer = peer
        self._secret, self._timeout, self._pin = secret, timeout, pin
        self._socket = listen_at(host)
        self.address: tuple[str, int] = (host, self._socket.getsockname()[1])
        self._channel: Future[tuple[list[socket.socket], int]] = Future()
        self._thread = threading.Thread(target=self._run, name=f"tcp listener for {peer}", daemon=True)
        self._thread.start()

    def accept(self, timeout: float) -> TcpReceiver:
        """The receiver, when all connections of the channel have come; see `accept_connections`."""
        connections, capacity = self.accept_connections(timeout)
        return TcpReceiver(self.peer, connections, capacity, self._pin)

    def accept_connections(self, timeout: float) -> tuple[list[socket.socket], int]:
        """All connections of the channel, in order, and its capacity. Closes the listener.

        Raises:
            TransportTimeout: They did not come in `timeout` seconds; then it may be called again.
            TransportError: No connection can be accepted.
        """
        try:
            connections, capacity = self._channel.result(timeout)
        except FutureTimeout:
            raise TransportTimeout(f"stage {self.peer} did not connect in {timeout:g} s") from None
        self.close()
        for connection in connections:
            configure(connection, self._timeout)
        return connections, capacity

    def close(self) -> None:
        """Stop listening. May be called twice."""
        shut_down([self._socket])
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        """Admit connections until the channel is complete or `close`; the thread's body."""
        try:
            with Admission(self._socket, self._secret) as admission:
                if channel := admission.run():
                    self._channel.set_result(channel)
        except Exception as error:  # a full table of descriptors, for instance
            refused = TransportError(f"no connection of stage {self.peer} can be accepted ({error})")
            self._channel.set_exception(refused)


@dataclass(slots=True)
class _Applicant:
    """Somebody whose handshake is under way."""

    challenge: bytes
    deadline: Deadline = field(default_factory=lambda: Deadline(_HANDSHAKE_TIMEOUT_S))
    said: bytearray = field(default_factory=bytearray)


class Admission:
    """The connections of a channel that have proved themselves, and those that have yet to.

    Args:
        listener: A listening socket that does not block.
        secret: The channel's.
        stop: Readable when `run` is to end; None where the listener is shut down instead.
    """

    def __init__(self, listener: socket.socket, secret: bytes, stop: Waitable | None = None) -> None:
        self._listener, self._secret, self._stop = listener, secret, stop
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        if stop is not None:
            self._selector.register(stop.fileno(), selectors.EVENT_READ, stop)
        self._applicants: dict[socket.socket, _Applicant] = {}
        self._admitted: dict[int, socket.socket] = {}
        self._first: Hello | None = None

    def __enter__(self) -> Admission:
        return self

    def __exit__(self, *error: object) -> None:
        self._selector.close()
        for connection in [*self._applicants, *self._admitted.values()]:
            connection.close()

    def run(self) -> tuple[list[socket.socket], int] | None:
        """The channel's connections in order, and its capacity; None when it was to stop."""
        while True:
            for key, _ in self._selector.select(self._patience()):
                if key.data is not None:
                    return None
                if key.fileobj is self._listener:
                    if not self._meet():
                        return None
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._applicants:
                    self._hear(key.fileobj)  # else it was turned away since `select` returned
                if self._first and len(self._admitted) == self._first.stripes:
                    connections = [self._admitted.pop(index) for index in range(self._first.stripes)]
                    return connections, self._first.capacity
            for connection in [c for c, known in self._applicants.items() if not known.deadline.left()]:
                self._turn_away(connection)

    def _patience(self) -> float | None:
        return min((known.deadline.left() for known in self._applicants.values()), default=None)

    def _meet(self) -> bool:
        """Challenge a new connection; False when there are to be no more."""
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(_RETRY_INTERVAL_S)  # the connection still waits, and `select` says so at once
            return error.errno not in (errno.EBADF, errno.EINVAL)  # these two: the listener was shut down
        connection.setblocking(False)
        known = _Applicant(make_challenge())
        if len(self._applicants) == _MOST_STRANGERS:
            self._turn_away(next(iter(self._applicants)))
        self._applicants[connection] = known
        self._selector.register(connection, selectors.EVENT_READ)
        with contextlib.suppress(OSError):  # its next words are an end of file
            connection.send(known.challenge, NO_WAIT)
        return True

    def _hear(self, connection: socket.socket) -> None:
        """Read on in what an applicant says, and admit it or turn it away once that is complete."""
        known = self._applicants[connection]
        try:
            said = connection.recv(HELLO_BYTES - len(known.said), NO_WAIT)
            known.said += said
            if not said:
                self._turn_away(connection)
            elif len(known.said) == HELLO_BYTES:
                self._admit(connection, known.challenge, bytes(known.said))
        except BlockingIOError:
            pass
        except (OSError, HandshakeError):
            self._turn_away(connection)

    def _admit(self, connection: socket.socket, challenge: bytes, packet: bytes) -> None:
        hello = check_hello(self._secret, challenge, packet)
        self._first = self._first or hello
        agrees = (hello.stripes, hello.capacity) == (self._first.stripes, self._first.capacity)
        if not agrees or hello.stripe in self._admitted:
            raise HandshakeError("it does not belong to the other connections of its channel")
        connection.send(make_answer(self._secret, challenge, packet), NO_WAIT)
        self._selector.unregister(connection)
        del self._applicants[connection]
        self._admitted[hello.stripe] = connection

    def _turn_away(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._applicants[connection]
        connection.close()


def listen_at(host: str) -> socket.socket:
    """A socket that listens at this address; empty for all. Raises UserError when the host has no such."""
    both = not host and socket.has_dualstack_ipv6()  # all interfaces: whichever address MASTER_ADDR has
    listener = socket.socket(socket.AF_INET6 if both or ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if both:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        widen(listener)  # connections inherit it
        listener.bind((host, 0))
        listener.listen(_MOST_STRANGERS)
        listener.setblocking(False)
        return listener
    except OSError as error:
        listener.close()
        raise UserError(
            f"no stage can listen on {host or 'any address'} ({cause(error)}) of this host"
        ) from None
