"""A TCP connection inside TLS, for code that needs an ordinary socket.

    TcpSender, TcpReceiver ◄── inner ──► socket pair ◄── a thread: TLS ──► TCP connection ◄──► the other host

One thread does all of a connection's TLS, as OpenSSL must not read and write at once from two. Each direction
ends by itself, as with a plain connection: an end of file on one side is an alert close_notify on the wire,
and an end of file behind it. Without that alert the connection was cut, and the plain end is reset.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from concurrent.futures import Future

from workers.transport.base import Deadline
from workers.transport.tcp_socket import NO_WAIT, shut_down

_CHUNK_BYTES = 1 << 18
_READ, _WRITE = (event | select.POLLHUP | select.POLLERR for event in (select.POLLIN, select.POLLOUT))


class Tunnel:
    """Encrypts a connection from now on; `inner` is the plain end.

    Args:
        connection: connected; the tunnel closes it.
        context: says whom to trust.
        server: whether this is the end that listened.
        name: of the thread.
        timeout: seconds for the handshake.
    """

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, *, server: bool, name: str, timeout: float
    ) -> None:
        self.inner, self._plain = socket.socketpair()
        self._wire = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._handshake: Future[None] = Future()
        self._to_wire = self._to_plain = memoryview(b"")
        self._reads_plain = self._reads_wire = True
        """Whether a direction has not ended yet."""
        self._wire.setblocking(False)
        self._plain.setblocking(False)
        self._thread = threading.Thread(target=self._run, args=(Deadline(timeout),), name=name, daemon=True)
        self._thread.start()

    def await_handshake(self, timeout: float) -> None:
        """Wait until the other end has proved who it is. Raises OSError, of which ssl's errors are some."""
        self._handshake.result(timeout)

    def join(self, timeout: float) -> None:
        """Wait until all that was sent is on its way and both directions have ended."""
        self._thread.join(timeout)

    def abort(self) -> None:
        """End both directions at once."""
        shut_down([self._wire])  # wakes the thread
        self.inner.close()

    def _run(self, handshake: Deadline) -> None:
        try:
            self._shake_hands(handshake)
            self._handshake.set_result(None)
            self._deliver()  # the first messages may have come with the last words of the handshake
            while self._is_busy():
                self._turn()
        except Exception as error:
            if not self._handshake.done():
                self._handshake.set_exception(error)
            self._reset_plain()
        finally:
            shut_down([self._wire])
            self._wire.close()
            self._plain.close()

    def _is_busy(self) -> bool:
        """Whether a direction has not ended, or something is to be written, such as the last alert."""
        return bool(
            self._reads_plain or self._reads_wire or self._to_wire or self._to_plain or self._outgoing.pending
        )

    def _reset_plain(self) -> None:
        """Make reads from the plain end fail, behind what has come, instead of returning an end of file."""
        with contextlib.suppress(OSError):  # it is closed already, or full, which does as well
            self.inner.send(b"?", NO_WAIT)  # closing a socket that has something unread resets the other end

    def _shake_hands(self, deadline: Deadline) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._flush(deadline)
            except ssl.SSLError:
                self._flush(deadline)  # the alert that tells the other end why
                raise
            self._wait(select.POLLIN, deadline)
            data = self._wire.recv(_CHUNK_BYTES)
            if not data:
                raise ConnectionResetError("it hung up during the handshake")
            self._incoming.write(data)

    def _flush(self, deadline: Deadline) -> None:
        data = memoryview(self._outgoing.read())
        while data:
            self._wait(select.POLLOUT, deadline)
            data = data[self._wire.send(data) :]

    def _wait(self, events: int, deadline: Deadline) -> None:
        poller = select.poll()
        poller.register(self._wire, events)
        if not poller.poll(deadline.left() * 1e3):
            raise TimeoutError("it did not answer in time")

    def _turn(self) -> None:
        """Wait until something can be done, and do it."""
        if self._outgoing.pending and not self._to_wire:
            self._to_wire = memoryview(self._outgoing.read())
        poller = select.poll()
        plain = self._interest(self._reads_plain and not self._to_wire, self._to_plain)
        wire = self._interest(self._reads_wire and not self._to_plain, self._to_wire)
        for end, events in ((self._plain, plain), (self._wire, wire)):
            if events:
                poller.register(end, events)
        ready = dict(poller.poll())
        on_plain, on_wire = (ready.get(end.fileno(), 0) for end in (self._plain, self._wire))
        if self._to_plain and on_plain & _WRITE:
            self._to_plain = self._to_plain[self._plain.send(self._to_plain) :]
        if self._to_wire and on_wire & _WRITE:
            self._to_wire = self._to_wire[self._wire.send(self._to_wire) :]
        if plain & select.POLLIN and on_plain & _READ:
            self._encrypt()
        if wire & select.POLLIN and on_wire & _READ:
            self._decrypt()
        self._end_directions()

    @staticmethod
    def _interest(reads: bool, to_write: memoryview) -> int:
        return (select.POLLIN if reads else 0) | (select.POLLOUT if to_write else 0)

    def _encrypt(self) -> None:
        """Take what the channel sends."""
        try:
            data = self._plain.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            self._tls.write(data)
            return
        self._reads_plain = False
        with contextlib.suppress(ssl.SSLError):  # it asks for the other end's alert, which comes in its time
            self._tls.unwrap()

    def _decrypt(self) -> None:
        """Take what came over the wire."""
        try:
            data = self._wire.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError("the connection was cut")
        self._incoming.write(data)
        self._deliver()

    def _deliver(self) -> None:
        """Decrypt all that has come."""
        parts = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while self._reads_wire:
                try:
                    parts.append(self._tls.read(_CHUNK_BYTES))
                except ssl.SSLZeroReturnError:
                    parts.append(b"")
                self._reads_wire = parts[-1] != b""
        self._to_plain = memoryview(b"".join(parts))

    def _end_directions(self) -> None:
        """Pass ends of file on, behind everything that comes before them."""
        with contextlib.suppress(OSError):  # the other side has closed it
            if not (self._reads_plain or self._to_wire or self._outgoing.pending):
                self._wire.shutdown(socket.SHUT_WR)
            if not (self._reads_wire or self._to_plain):
                self._plain.shutdown(socket.SHUT_WR)
