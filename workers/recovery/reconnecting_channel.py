"""Channel ends that outlast their connection, because a process of either stage may be started again.

    ReconnectingSender                                        ReconnectingReceiver
    connects, sends again what was not released  ----->  drops what it has taken
                                       end of file       away: waits for the next one at its listener
    connects again ...

The listener belongs to the receiver's supervisor, so one can connect while its stage is away: packets wait in
the connection. When nobody listens any more, the supervisor is gone; only then the sender raises PeerGone.
A receiver cannot tell, so `peer_gone` of the sender to the same stage must be asked.
"""

from __future__ import annotations

import contextlib

from dni_async.messages import Message
from workers.recovery.journal import Journal
from workers.recovery.send_log import SendLog
from workers.transport.base import Deadline, PeerGone, Receiver, Sender, TransportTimeout, wait_any
from workers.transport.packets import SPIN
from workers.transport.shm import ShmListener, connect_pool
from workers.transport.shm_receiver import Arrival, ShmReceiver
from workers.transport.shm_sender import ShmSender

_PATIENCE = 0.5
"""Seconds for one who connects to say who it is."""


class ReconnectingSender(Sender):
    """Sends to whoever listens at `address`; connects when it is first used.

    timeout: seconds that connecting may take.
    """

    spin = SPIN

    def __init__(self, peer: int, address: str, send_log: SendLog, journal: Journal, timeout: float) -> None:
        self.peer = peer
        self._address = address
        self._outbox = send_log
        self._journal = journal
        self._timeout = timeout
        self._sender: ShmSender | None = None
        journal.senders.append(self)

    def fileno(self) -> int:
        """The connection's."""
        return self._connected().fileno()

    def peer_gone(self) -> bool:
        """Whether the receiver's supervisor is."""
        try:
            if self._sender is None or self._sender.peer_gone():
                self._hang_up()
                self.ready()
            return False
        except PeerGone:
            return True

    def ready(self) -> bool:
        """Whether a slot is free, after connecting again if need be."""
        while True:
            sender = self._connected()
            try:
                return sender.ready()
            except PeerGone:
                self._hang_up()

    def send(self, message: Message, timeout: float) -> None:
        """Send it, stamped as what is being handled."""
        before, deadline = self._outbox.committed, Deadline(timeout)
        while self._outbox.committed == before:
            sender = self._connected()
            sender.stamp = self._journal.stamp
            try:
                sender.send(message, deadline.left())
            except PeerGone:
                self._hang_up()
        if self._sender is None:
            self.ready()  # it flies already: the next connection brings it
        self.sent += 1

    def flush(self, timeout: float) -> None:
        """Wait for copies under way; what is whole is logged, whether or not somebody is there."""
        deadline = Deadline(timeout)
        while self._sender or not all(message.logged for message in self._outbox.in_flight):
            try:
                return self._connected().flush(deadline.left())
            except PeerGone:
                self._hang_up()

    def drain(self, timeout: float) -> None:
        """Wait until all is released, or nobody listens any more: the receiver has ended then.

        Raises TransportTimeout.
        """
        deadline = Deadline(timeout)
        with contextlib.suppress(PeerGone):
            while True:
                self.ready()
                if not self._outbox.in_flight:
                    return
                if not wait_any([self], deadline.left()):
                    raise TransportTimeout(f"stage {self.peer} released no message in {timeout:g} s")

    def held_bytes(self) -> int:
        """Bytes of all slots."""
        return self._outbox.held_bytes()

    def close(self) -> None:
        """Close the connection."""
        self._hang_up()

    def _connected(self) -> ShmSender:
        if self._sender is None:
            self._outbox.renew()
            self._sender = connect_pool(self._address, self.peer, self._outbox, self._timeout)
        return self._sender

    def _hang_up(self) -> None:
        if self._sender is not None:
            self._sender.hang_up()
        self._sender = None


class ReconnectingReceiver(Receiver):
    """Receives from whoever comes to `listener`; every message is given once.

    channel: its name in the journal. Receiving a message, handling it and releasing it is one step of the
    journal: only one message may be out at a time, of all channels of the stage.
    """

    spin = SPIN

    def __init__(self, listener: ShmListener, journal: Journal, channel: str) -> None:
        self.peer = listener.peer
        self._listener = listener
        self._journal = journal
        self._taken = journal.taken(channel)
        self._receiver: ShmReceiver | None = None
        self._next: Arrival | None = None

    def fileno(self) -> int:
        """The connection's, or the listener's while there is none. Not to sleep on when `poll` is True."""
        return (self._receiver or self._listener).fileno()

    def peer_gone(self) -> bool:
        """Never: it may come again."""
        return False

    def poll(self) -> bool:
        """Whether a message waits that was not taken before."""
        while self._next is None:
            if self._receiver is None:
                if not wait_any([self._listener], 0.0):
                    return False
                self._receiver = self._listener.admit(_PATIENCE)
                continue
            try:
                if not self._receiver.poll():
                    return False
                arrival = self._receiver.arrive(0.0)
            except PeerGone:
                self._receiver.close()
                self._receiver = None
                continue
            if arrival.stamp > self._taken[arrival.header.kind]:
                self._next = arrival
            else:
                self._receiver.release()
        return True

    def recv(self, timeout: float) -> Message:
        """The next message."""
        deadline = Deadline(timeout)
        while not self.poll():
            if not wait_any([self], deadline.left()):
                raise TransportTimeout(f"stage {self.peer} sent no message in {timeout:g} s")
        assert self._next is not None
        arrival, self._next = self._next, None
        self._journal.stamp = self._taken[arrival.header.kind] = arrival.stamp
        return arrival.message()

    def release(self) -> None:
        """The message was handled: commit, then give its slot back."""
        self._journal.commit()
        if self._receiver is not None:
            self._receiver.release()

    def close(self) -> None:
        """Close the connection; the listener goes with the supervisor."""
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = None
