"""Channels that outlast their connection, because the process of either stage may be restarted.

    ReconnectingSender                                        ReconnectingReceiver
    connects, sends again what was not released  ----->  drops what was delivered before
                                       end of file       waits for the next connection at its listener
    connects again ...

The listener belongs to the receiver's supervisor, so a sender can connect while the receiving stage is down:
packets wait in the connection. If nobody listens, the supervisor is gone; only then the sender raises
PeerGone. A receiver cannot tell whether its peer is gone; the sender to the same stage can.
"""

from __future__ import annotations

import contextlib
import time

from typing_extensions import override

from dni_async.messages import Message
from workers.recovery.journal import Journal
from workers.recovery.send_log import SendLog
from workers.transport.base import Deadline, PeerGone, Receiver, Sender, TransportTimeout, wait_any
from workers.transport.packets import SPIN_S
from workers.transport.shm import ShmListener, connect_pool
from workers.transport.shm_receiver import Arrival, ShmReceiver
from workers.transport.shm_sender import ShmSender


class ReconnectingSender(Sender):
    """Sends to the stage that listens at `address`; connects when it is first used.

    Args:
        timeout: seconds that connecting may take, and that the listener may refuse every connection.
    """

    spin_s = SPIN_S

    def __init__(self, peer: int, address: str, send_log: SendLog, journal: Journal, timeout: float) -> None:
        self.peer = peer
        self._address = address
        self._send_log = send_log
        self._journal = journal
        self._timeout = timeout
        self._sender: ShmSender | None = None
        self._refused_since: float | None = None
        journal.senders.append(self)

    @override
    def fileno(self) -> int:
        return self._connected().fileno()

    @override
    def peer_gone(self) -> bool:
        """Whether the receiver's supervisor is gone."""
        try:
            self.ready()
            return False
        except PeerGone:
            return True
        except TransportTimeout:
            return False

    @override
    def ready(self) -> bool:
        while True:  # `_connected` has a deadline
            sender = self._connected()
            try:
                return sender.ready()
            except PeerGone:
                self._disconnect()

    @override
    def send(self, message: Message, timeout: float) -> None:
        """Send the message, stamped with the number of the message that is being handled."""
        before, deadline = self._send_log.committed, Deadline(timeout)
        while self._send_log.committed == before:
            sender = self._connected()
            sender.stamp = self._journal.stamp
            try:
                sender.send(message, deadline.left())
            except PeerGone:
                self._disconnect()
        if self._sender is None:
            self.ready()  # the message is in flight already: the next connection sends it
        self.sent += 1

    @override
    def flush(self, timeout: float) -> None:
        """Wait for copies under way; a copied message is logged, whether or not a receiver is there."""
        deadline = Deadline(timeout)
        while self._sender or not all(message.logged for message in self._send_log.in_flight):
            try:
                return self._connected().flush(deadline.left())
            except PeerGone:
                self._disconnect()

    def drain(self, timeout: float) -> None:
        """Wait until every message is released, or the receiver has ended (nobody listens any more).

        Raises TransportTimeout.
        """
        deadline = Deadline(timeout)
        with contextlib.suppress(PeerGone):
            while True:
                self.ready()
                if not self._send_log.in_flight:
                    return
                if not (deadline.left() and wait_any([self], deadline.left())):
                    raise TransportTimeout(f"stage {self.peer} released no message in {timeout:g} s")

    @override
    def held_bytes(self) -> int:
        return self._send_log.held_bytes()

    @override
    def close(self) -> None:
        self._disconnect()

    def _connected(self) -> ShmSender:
        """The connection, made again if needed. Raises TransportTimeout if the receiver keeps refusing it."""
        if self._sender is None:
            if self._refused_since is not None and time.monotonic() - self._refused_since > self._timeout:
                raise TransportTimeout(f"stage {self.peer} refused every connection for {self._timeout:g} s")
            self._send_log.on_connect()
            self._sender = connect_pool(self._address, self.peer, self._send_log, self._timeout)
        return self._sender

    def _disconnect(self) -> None:
        if self._sender is None:
            return
        if self._sender.accepted:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = time.monotonic()
        self._sender.disconnect()
        self._sender = None


class ReconnectingReceiver(Receiver):
    """Receives from the sender that connects to `listener`; delivers every message once.

    Receiving, handling and releasing a message is one step of the journal: of all channels of the stage, only
    one message may be unreleased at a time.

    Args:
        channel: name of this channel in the journal.
    """

    spin_s = SPIN_S

    def __init__(self, listener: ShmListener, journal: Journal, channel: str) -> None:
        self.peer = listener.peer
        self._listener = listener
        self._journal = journal
        self._delivered = journal.delivered(channel)
        self._receiver: ShmReceiver | None = None
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
        """Close the connection; the supervisor closes the listener."""
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = None
