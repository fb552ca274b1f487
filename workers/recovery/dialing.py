"""How a sender reaches the stage that listens, again and again; one class for each transport."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Protocol

from typing_extensions import override

from dni_async.messages import Message
from workers.recovery.send_log import SendLog
from workers.transport.base import Deadline, Doorbell
from workers.transport.shm import FULL_INTERVAL_S, connect_now, queue_full
from workers.transport.shm_sender import ShmSender


class ConnectedSender(Protocol):
    """The sending end of one connection. Messages of the send log go over it first, then those of `send`."""

    stamp: int
    accepted: bool

    def fileno(self) -> int:
        """As `Sender.fileno`."""

    def ready(self) -> bool:
        """As `Sender.ready`."""

    def send(self, message: Message, timeout: float) -> None:
        """As `Sender.send`."""

    def poke(self) -> bool:
        """As `Sender.poke`."""

    def flush(self, timeout: float) -> None:
        """As `Sender.flush`."""

    def disconnect(self) -> None:
        """Close the connection; messages in flight stay in the send log."""


class Dial(ABC):
    """Makes the connections of a sender to its neighbour: the first, and another whenever one has broken."""

    @abstractmethod
    def connect(self) -> ConnectedSender | None:
        """Return the next connection; None while it is being made.

        Raises:
            PeerGone: nobody listens there any more.
            TransportTimeout: nobody could be reached for too long.
        """

    @abstractmethod
    def fileno(self) -> int:
        """Return a descriptor that becomes readable when `connect`, which has returned None, may succeed."""

    @abstractmethod
    def close(self) -> None:
        """Give up a connection that is being made. May be called twice."""


class ShmDial(Dial):
    """Connects at once: the listener is on this host, and outlives the stage.

    While strangers fill the listener's queue the stage goes on; a timer rings when the next attempt is due.

    Args:
        timeout: seconds for which the queue may be full.
    """

    def __init__(self, address: str, peer: int, send_log: SendLog, timeout: float) -> None:
        self._address, self._peer = address, peer
        self._send_log, self._timeout = send_log, timeout
        self._bell = Doorbell()
        self._timer: threading.Timer | None = None
        self._full: Deadline | None = None

    @override
    def connect(self) -> ShmSender | None:
        self._bell.acknowledge()
        self._send_log.on_connect()
        sender = connect_now(self._address, self._peer, self._send_log)
        if sender is not None:
            self._full = None
            return sender
        self._full = self._full or Deadline(self._timeout)
        if not self._full.left():
            raise queue_full(self._peer, self._timeout)
        if self._timer is None:
            self._timer = threading.Timer(FULL_INTERVAL_S, self._on_timer)
            self._timer.daemon = True
            self._timer.start()
        return None

    @override
    def fileno(self) -> int:
        return self._bell.fileno()

    @override
    def close(self) -> None:
        self._bell.close()

    def _on_timer(self) -> None:
        self._timer = None
        self._bell.ring()
