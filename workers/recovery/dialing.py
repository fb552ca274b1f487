"""How a sender reaches the stage that listens, again and again; one class for each transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from typing_extensions import override

from dni_async.messages import Message
from workers.recovery.send_log import SendLog
from workers.transport.shm import connect_pool
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

    def flush(self, timeout: float) -> None:
        """As `Sender.flush`."""

    def disconnect(self) -> None:
        """Close the connection; messages in flight stay in the send log."""


class Dial(ABC):
    """Connects to one stage."""

    @abstractmethod
    def connect(self) -> ConnectedSender | None:
        """The next connection; None while it is being made.

        Raises:
            PeerGone: nobody listens there any more.
            TransportTimeout: nobody could be reached for too long.
        """

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that is readable when `connect` has news, after it has returned None."""

    @abstractmethod
    def close(self) -> None:
        """Give up a connection that is being made. May be called twice."""


class ShmDial(Dial):
    """Connects at once: the listener is on this host, and outlives the stage."""

    def __init__(self, address: str, peer: int, send_log: SendLog, timeout: float) -> None:
        self._address, self._peer = address, peer
        self._send_log, self._timeout = send_log, timeout

    @override
    def connect(self) -> ShmSender:
        self._send_log.on_connect()
        return connect_pool(self._address, self._peer, self._send_log, self._timeout)

    @override
    def fileno(self) -> int:
        raise AssertionError("it never waits")

    @override
    def close(self) -> None:
        pass
