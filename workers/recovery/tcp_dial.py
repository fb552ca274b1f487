"""Connects to a stage on another host, in a thread: while a link is cut, the stage goes on.

    link cut     connect ─ fails ─ connect ─ fails ─ ... ─ TransportTimeout after --timeout
    link back    connect ─ handshake ─ the connection
    stage down   connect ─ handshake waits for the next process of the stage
    stage gone   connect ─ refused ─ PeerGone

An attempt is short, and a new one begins at once, because the kernel waits longer and longer between its own.
"""

from __future__ import annotations

import socket
import threading
import time

from typing_extensions import override

from workers.recovery.dialing import Dial
from workers.recovery.send_log import SendLog
from workers.transport.base import Deadline, Doorbell, PeerGone, TransportError, TransportTimeout
from workers.transport.handshake import HandshakeError, Hello
from workers.transport.tcp_connect import Address, open_connection, prove
from workers.transport.tcp_socket import cause, shut_down
from workers.transport.tcp_stamped import TcpStampedSender, configure_stamped

_ATTEMPT_TIMEOUT_S = 1.0
"""For one connection to be made; more than a round trip."""
_RETRY_INTERVAL_S = 0.1


class _NoAnswer(Exception):
    """Somebody listens, and nobody takes part in the handshake."""


class TcpDial(Dial):
    """Connects to `address`.

    Args:
        timeout: seconds for which the host may be out of reach, or refuse the secret.
    """

    def __init__(self, address: Address, secret: bytes, peer: int, send_log: SendLog, timeout: float) -> None:
        self._address, self._secret = address, secret
        self._peer, self._send_log, self._timeout = peer, send_log, timeout
        self._bell = Doorbell()
        self._thread: threading.Thread | None = None
        self._result: socket.socket | TransportError | None = None
        self._current: socket.socket | None = None
        self._closed = False

    @override
    def connect(self) -> TcpStampedSender | None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"tcp dial {self._peer}", daemon=True)
            self._thread.start()
        self._bell.acknowledge()
        result = self._result
        if result is None:
            return None
        self._thread.join()
        self._thread = self._result = None
        if isinstance(result, TransportError):
            raise result
        return TcpStampedSender(self._peer, result, self._send_log)

    @override
    def fileno(self) -> int:
        return self._bell.fileno()

    @override
    def close(self) -> None:
        self._closed = True
        current = self._current  # the thread may set it to None at any time
        if current is not None:
            shut_down([current])  # wakes the handshake
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        if isinstance(self._result, socket.socket):
            self._result.close()
        self._bell.close()

    def _run(self) -> None:
        """Connect, again and again; the thread's body."""
        try:
            self._result = self._connected()
        except TransportError as error:
            self._result = error
        except Exception as error:  # whoever waits for this thread must know
            self._result = TransportError(f"{type(error).__name__}: {error}")
        self._bell.ring()

    def _connected(self) -> socket.socket:
        where, reachable = f"{self._address[0]}:{self._address[1]}", time.monotonic()
        while not self._closed:
            try:
                return self._attempt()
            except HandshakeError as error:  # perhaps only because the stage was killed meanwhile
                failure = f"what listens at {where} is not stage {self._peer} of this job: {error}"
            except ConnectionRefusedError:
                raise PeerGone(f"stage {self._peer} does not listen at {where}") from None
            except _NoAnswer:  # the stage is being started again on a host that can be reached
                failure, reachable = f"stage {self._peer} did not answer at {where}", time.monotonic()
            except OSError as error:
                failure = f"stage {self._peer} could not be reached at {where} ({cause(error)})"
            if time.monotonic() - reachable > self._timeout:
                raise TransportTimeout(f"{failure} for {self._timeout:g} s")
            time.sleep(_RETRY_INTERVAL_S)
        raise PeerGone("this end of the channel is closed")

    def _attempt(self) -> socket.socket:
        """One connection that is proved. Raises OSError and HandshakeError."""
        connection = self._current = open_connection(self._address, Deadline(_ATTEMPT_TIMEOUT_S))
        try:
            if self._closed:  # perhaps before `close` could see the connection
                raise ConnectionAbortedError
            configure_stamped(connection, self._timeout)
            hello = Hello(0, 1, self._send_log.capacity)
            prove(connection, self._secret, hello, Deadline(self._timeout))
            connection.settimeout(None)
            return connection
        except BaseException as error:
            connection.close()
            if isinstance(error, TimeoutError) and not error.errno:  # that of the kernel has a number
                raise _NoAnswer from None
            raise
        finally:
            self._current = None
