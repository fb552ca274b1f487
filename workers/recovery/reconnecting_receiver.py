"""The receiving end of a channel that outlasts its connections; `reconnecting_channel` has the protocol."""

from __future__ import annotations

from typing_extensions import override

from dni_async.messages import Message
from workers.recovery.journal import Journal
from workers.recovery.tcp_reception import TcpReception
from workers.transport.base import Deadline, PeerGone, Receiver, TransportTimeout, wait_any
from workers.transport.shm import ShmListener
from workers.transport.shm_receiver import Arrival, ShmReceiver
from workers.transport.tcp_stamped import TcpArrivals


class ReconnectingReceiver(Receiver):
    """Receives from the sender that connects to `listener`; delivers every message once.

    Receiving, handling and releasing a message is one step of the journal: of all channels of the stage, only
    one message may be unreleased at a time.

    Args:
        channel: name of this channel in the journal.
    """

    def __init__(
        self, listener: ShmListener | TcpReception, journal: Journal, channel: str, spin_s: float = 0.0
    ) -> None:
        self.peer = listener.peer
        self.spin_s = spin_s
        self._listener = listener
        self._journal = journal
        self._delivered = journal.delivered(channel)
        self._receiver: ShmReceiver | TcpArrivals | None = None
        self._next: Arrival | None = None

    @override
    def fileno(self) -> int:
        """Of the connection, or of the listener while there is none. Not to sleep on when `poll` is True."""
        return (self._receiver or self._listener).fileno()

    @override
    def peer_gone(self) -> bool:
        """Never: the peer may be restarted."""
        return False

    @override
    def poll(self) -> bool:
        """Whether a message waits that was not delivered before."""
        while self._next is None:
            if self._receiver is None:
                self._receiver = self._listener.admit(0.0)
                if self._receiver is None:
                    return False
            try:
                if not self._receiver.poll():
                    return False
                arrival = self._receiver.arrive(0.0)
            except PeerGone:
                self._receiver.close()
                self._receiver = None
                continue
            if arrival.stamp > self._delivered[arrival.header.kind]:
                self._next = arrival
            else:
                self._receiver.release()
        return True

    @override
    def recv(self, timeout: float) -> Message:
        deadline = Deadline(timeout)
        while not self.poll():
            if not (deadline.left() and wait_any([self], deadline.left())):
                raise TransportTimeout(f"stage {self.peer} sent no message in {timeout:g} s")
        assert self._next is not None
        arrival, self._next = self._next, None
        self._journal.stamp = self._delivered[arrival.header.kind] = arrival.stamp
        return arrival.message()

    @override
    def release(self) -> None:
        self._journal.commit()
        if self._receiver is not None:
            self._receiver.release()

    @override
    def close(self) -> None:
        """Close the connection; the supervisor closes the socket that listens."""
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = None
        if isinstance(self._listener, TcpReception):
            self._listener.close()
