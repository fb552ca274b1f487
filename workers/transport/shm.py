"""Channels between processes of one host: payloads in shared memory, everything else over a Unix socket.

    sender                               socket                             receiver
    connect, token, capacity         ----------->                           accept, check user and token
                                     <-----------  0 messages released      accepted
    take a free slot (make it, or a
    larger one, when needed)
    copy the tensors into the slot
    slot index, generation, header   ----------->  (+ descriptor if new)    map the slot if new
                                                                            use the tensors in place
    the slot is free again           <-----------  messages released        release()

One copy per message, whatever its size. There is nothing to clean up: slots are memfds, the socket is
SOCK_SEQPACKET in the abstract namespace, and both vanish with their processes. A dead peer is the
socket's end of file. The address is a string to publish: a random name and a random token; both sides
check that the other runs under the same user, and the receiver checks the token. Linux only; both
processes must share a network namespace.

This file connects both ends; `shm_sender` and `shm_receiver` are the ends, `pool` has the slots, `packets`
the format.
"""

from __future__ import annotations

import secrets
import socket
import time

from workers.transport.base import (
    MAX_CAPACITY,
    Deadline,
    PeerGone,
    TransportError,
    TransportTimeout,
    check_capacity,
    wait_any,
)
from workers.transport.packets import HELLO, QUIET, same_user
from workers.transport.pool import SlotPool
from workers.transport.shm_receiver import ShmReceiver
from workers.transport.shm_sender import ShmSender

HELLO_TIMEOUT_S = 0.5
"""How long somebody who has connected may take to send the token."""
_FLOOD_TIMEOUT_S = 2.0
"""How much longer than its timeout `admit` turns strangers away who keep connecting."""
FULL_INTERVAL_S = 0.01
"""Time between two attempts to connect while the listener's queue is full."""


class ShmListener:
    """Listens at `address` for the sender of one channel. `pin` registers the slots with CUDA."""

    def __init__(self, peer: int, pin: bool = False) -> None:
        self.peer = peer
        self.pin = pin
        self._name, self._token = f"dni_async-{secrets.token_hex(16)}", secrets.token_hex(16)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(f"\0{self._name}")
        self._socket.listen()

    @property
    def address(self) -> str:
        """For `connect`, and for nobody else: it contains the channel's token."""
        return f"{self._name}/{self._token}"

    def fileno(self) -> int:
        """Readable when somebody has connected."""
        return self._socket.fileno()

    def accept(self, timeout: float) -> ShmReceiver:
        """The receiver for the sender that knows the token; strangers are turned away. Closes the listener.

        Raises TransportTimeout if no sender came within `timeout` seconds; then it may be called again.
        """
        receiver = self.admit(timeout)
        if receiver is None:
            raise TransportTimeout(f"stage {self.peer} did not connect in {timeout:g} s")
        self.close()
        return receiver

    def admit(self, timeout: float) -> ShmReceiver | None:
        """As `accept`, but goes on listening, and returns None if no sender came within `timeout` seconds.

        Whoever waits in the queue is looked at, also with a timeout of 0: strangers may not hide the sender.
        """
        deadline, limit = Deadline(timeout), Deadline(timeout + _FLOOD_TIMEOUT_S)
        while limit.left() and wait_any([self], deadline.left()):
            connection, _ = self._socket.accept()
            if capacity := self._check(connection):
                return ShmReceiver(self.peer, connection, capacity, self.pin)
            connection.close()
        return None

    def close(self) -> None:
        """Stop listening. May be called twice."""
        self._socket.close()

    def _check(self, connection: socket.socket) -> int:
        """The channel's capacity; 0 for a stranger."""
        if not same_user(connection) or not wait_any([connection], HELLO_TIMEOUT_S):
            return 0
        try:
            hello = connection.recv(HELLO.size + 1, QUIET)
        except OSError:
            return 0
        if len(hello) != HELLO.size:
            return 0
        token, capacity = HELLO.unpack(hello)
        known = secrets.compare_digest(token, self._token.encode())
        return capacity if known and capacity <= MAX_CAPACITY else 0


def connect(address: str, peer: int, capacity: int, timeout: float, pin: bool = False) -> ShmSender:
    """The sender for a listener's `address`; does not wait for its `accept`.

    Raises:
        PeerGone: nobody listens there.
        TransportTimeout: the listener's queue was full for `timeout` seconds.
        ValueError: the capacity is not in 1..MAX_CAPACITY.
    """
    pool, deadline = SlotPool(check_capacity(capacity), pin), Deadline(timeout)
    while (sender := connect_now(address, peer, pool)) is None:
        if not deadline.left():
            raise queue_full(peer, timeout)
        time.sleep(FULL_INTERVAL_S)
    return sender


def queue_full(peer: int, timeout: float) -> TransportTimeout:
    """The error of a listener whose queue was full for `timeout` seconds."""
    return TransportTimeout(f"stage {peer} took no connection in {timeout:g} s")


def connect_now(address: str, peer: int, pool: SlotPool) -> ShmSender | None:
    """As `connect`, with the slots of `pool`; None if the listener's queue is full."""
    name, _, token = address.partition("/")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setblocking(False)
    try:
        connection.connect(f"\0{name}")
        if not same_user(connection):
            raise TransportError(f"address {name!r} belongs to another user")
        connection.send(HELLO.pack(token.encode(), pool.capacity))
    except BlockingIOError:  # the listener is there
        connection.close()
        return None
    except TransportError:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise PeerGone(f"stage {peer} does not listen at {name!r} ({error})") from None
    return ShmSender(peer, connection, pool)
