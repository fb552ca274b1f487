"""Channels that outlast their connection, because the process of either stage may be restarted.

    ReconnectingSender                                        ReconnectingReceiver
    connects, sends again what was not released  ----->  drops what was delivered before
                                       end of file       waits for the next connection at its listener
    connects again ...

The listener belongs to the receiver's supervisor, so a sender can connect while the receiving stage is down:
over shared memory packets wait in the connection, over TCP they wait in the send log. If nobody listens, the
supervisor is gone; only then, or when its host is out of reach for too long, the sender raises PeerGone or
TransportTimeout. A receiver cannot tell whether its peer is gone; the sender to the same stage can.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from typing_extensions import override

from dni_async.messages import Message
from workers.recovery.dialing import ConnectedSender, Dial
from workers.recovery.journal import Journal
from workers.recovery.send_log import SendLog
from workers.runtime.accelerator import wait_for
from workers.transport.base import Deadline, PeerGone, Sender, TransportTimeout, wait_any
from workers.transport.cuda_copies import copy_out

_END_CHECK_INTERVAL_S = 0.5


class ReconnectingSender(Sender):
    """Sends to the stage that `dial` reaches; connects when it is first used.

    Args:
        timeout: seconds that the listener may refuse every connection.
        spin_s: see `Channel.spin_s`.
    """

    def __init__(
        self,
        peer: int,
        dial: Dial,
        send_log: SendLog,
        journal: Journal,
        timeout: float,
        spin_s: float = 0.0,
    ) -> None:
        self.peer = peer
        self.spin_s = spin_s
        self._dial = dial
        self._send_log = send_log
        self._journal = journal
        self._timeout = timeout
        self._sender: ConnectedSender | None = None
        self._refused_since: float | None = None
        journal.senders.append(self)

    @override
    def fileno(self) -> int:
        return (self._connected() or self._dial).fileno()

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
                return sender.ready() if sender else self._send_log.has_room()
            except PeerGone:
                self._disconnect()

    @override
    def send(self, message: Message, timeout: float) -> None:
        """Send the message, stamped with the number of the message that is being handled."""
        before, deadline = self._send_log.committed, Deadline(timeout)
        while self._send_log.committed == before:
            sender = self._connected()
            if sender is None:
                self.await_ready(deadline)
                if self._sender is None:
                    self._send_log.put(message, self._journal.stamp, copy_out)
                continue  # a connection that was made meanwhile sends only what was in flight then
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
            sender = self._connected()
            if sender is None:
                return self._log(deadline)
            try:
                return sender.flush(deadline.left())
            except PeerGone:
                self._disconnect()

    @override
    def poke(self) -> bool:
        try:
            return self._sender.poke() if self._sender else False
        except PeerGone:
            self._disconnect()
            return False

    def _log(self, deadline: Deadline) -> None:
        """Log the messages in flight, without a connection."""
        for message in self._send_log.in_flight:
            wait_for(message.copied, deadline.left())
            self._send_log.on_send(message)

    def drain(self, timeout: float, has_ended: Callable[[], bool] = lambda: False) -> None:
        """Wait until every message is released, or the receiver has ended (nobody listens any more).

        Args:
            has_ended: whether the receiving stage has handled all messages, and takes no connection any more;
                asked first, and then twice a second at least.

        Raises TransportTimeout when no message was released for `timeout` seconds.
        """
        in_flight = self._send_log.in_flight
        unreleased, deadline = len(in_flight), Deadline(timeout)
        with contextlib.suppress(PeerGone):
            self.flush(timeout)  # nothing below would send what a GPU has copied before something comes in
            while not has_ended():
                try:
                    if sender := self._connected():
                        sender.ready()
                    broken = False
                except PeerGone:
                    if self._sender is None:
                        raise  # nobody listens
                    self._disconnect()
                    broken = True
                if not in_flight:
                    return
                if len(in_flight) < unreleased:
                    unreleased, deadline = len(in_flight), Deadline(timeout)
                if not deadline.left():
                    raise TransportTimeout(f"stage {self.peer} released no message in {timeout:g} s")
                if not broken:  # else it would dial again: a stage that has ended takes no connection
                    wait_any([self], min(deadline.left(), _END_CHECK_INTERVAL_S))

    @override
    def pinned(self) -> bool | None:
        return self._send_log.pinned()

    @override
    def held_bytes(self) -> int:
        return self._send_log.held_bytes()

    @override
    def close(self) -> None:
        self._disconnect()
        self._dial.close()

    def _connected(self) -> ConnectedSender | None:
        """The connection, made again if needed; None while it is being made.

        Raises TransportTimeout if the receiver keeps refusing it, or cannot be reached.
        """
        if self._sender is None:
            if self._refused_since is not None and time.monotonic() - self._refused_since > self._timeout:
                raise TransportTimeout(f"stage {self.peer} refused every connection for {self._timeout:g} s")
            self._sender = self._dial.connect()
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
