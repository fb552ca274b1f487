"""Takes in the connections of one sender in turn, at a socket that outlives the stage's process."""

from __future__ import annotations

import socket
import threading

from workers.transport.base import Deadline, Doorbell, TransportError, wait_any
from workers.transport.tcp_listener import Admission
from workers.transport.tcp_stamped import TcpArrivals, configure_stamped


class TcpReception:
    """The listener of a `ReconnectingReceiver`. A thread takes in connections, and only the newest counts:
    the sender makes another when it has given up the one before, which may look alive to this side.

    Args:
        listener: of the supervisor, which closes it.
    """

    def __init__(
        self, peer: int, listener: socket.socket, secret: bytes, timeout: float, pin: bool = False
    ) -> None:
        self.peer = peer
        self._listener, self._secret = listener, secret
        self._timeout, self._pin = timeout, pin
        self._bell, self._stop = Doorbell(), Doorbell()
        self._lock = threading.Lock()
        self._next: tuple[socket.socket, int] | None = None
        self._current: TcpArrivals | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"tcp reception of {peer}", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Readable when a sender has connected."""
        return self._bell.fileno()

    def admit(self, timeout: float) -> TcpArrivals | None:
        """The receiver of the newest connection; None if no sender came within `timeout` seconds.

        Raises TransportError when no more connections can be taken in.
        """
        deadline = Deadline(timeout)
        while True:
            self._bell.acknowledge()
            if self._error is not None:
                raise TransportError(f"no connection of stage {self.peer} can be accepted ({self._error})")
            with self._lock:
                if self._next is not None:
                    (connection, capacity), self._next = self._next, None
                    self._current = TcpArrivals(self.peer, connection, capacity, self._pin)
                    return self._current
            if not (deadline.left() and wait_any([self], deadline.left())):
                return None

    def close(self) -> None:
        """Take in no more connections; the socket goes on listening for the next process of the stage."""
        self._stop.ring()
        self._thread.join()
        with self._lock:
            if self._next is not None:
                self._next[0].close()
                self._next = None
        self._stop.close()
        self._bell.close()

    def _run(self) -> None:
        """Take in connections until `close`; the thread's body."""
        try:
            while self._take_in():
                self._bell.ring()
        except Exception as error:  # a full table of descriptors, for instance
            self._error = error
            self._bell.ring()

    def _take_in(self) -> bool:
        """Take in one connection; False when there are to be no more."""
        with Admission(self._listener, self._secret, self._stop) as admission:
            channel = admission.run()
        if channel is None:
            return False
        connections, capacity = channel
        for connection in connections:
            configure_stamped(connection, self._timeout)
        with self._lock:
            if self._next is not None:
                self._next[0].close()
            self._next = connections[0], capacity
            if self._current is not None:
                self._current.supersede()
        return True
