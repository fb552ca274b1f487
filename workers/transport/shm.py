"""Channels between processes of one host: payloads in shared memory, everything else over a Unix socket.

    sender                               socket                             receiver
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

Here both ends meet; `shm_sender` and `shm_receiver` are the ends, `pool` has the slots, `packets` the format.
"""

from __future__ import annotations

import secrets
import socket

from workers.transport.base import Deadline, PeerGone, TransportError, TransportTimeout, wait_any
from workers.transport.packets import HELLO, QUIET, same_user
from workers.transport.pool import SlotPool
from workers.transport.queues import check_capacity
from workers.transport.shm_receiver import ShmReceiver
from workers.transport.shm_sender import ShmSender

MAX_CAPACITY = 128
"""As many credits surely fit into a socket's buffer, so that `release` never waits."""


class ShmListener:
    """Waits at `address` for the sender of one channel. `pin` registers the slots with CUDA."""

    def __init__(self, peer: int, pin: bool = False) -> None:
        self.peer = peer
        self.pin = pin
        self._name, self._token = f"dni_async-{secrets.token_hex(16)}", secrets.token_hex(16)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(f"\0{self._name}")
        self._socket.listen()

    @property
    def address(self) -> str:
        """To be handed to `connect`, and to nobody else: it holds the channel's token."""
        return f"{self._name}/{self._token}"

    def fileno(self) -> int:
        """Readable when somebody comes."""
        return self._socket.fileno()

    def accept(self, timeout: float) -> ShmReceiver:
        """The receiver of the one who knows the token; strangers are turned away. Closes the listener.

        Raises TransportTimeout when nobody came in `timeout` seconds; then it may be called again.
        """
        deadline = Deadline(timeout)
        while wait_any([self], deadline.left()):
            if receiver := self.admit(min(1.0, deadline.left())):
                self.close()
                return receiver
        raise TransportTimeout(f"stage {self.peer} did not connect in {timeout:g} s")

    def admit(self, patience: float) -> ShmReceiver | None:
        """The receiver of the one who has come, None for a stranger. Goes on listening.

        patience: seconds to wait for who comes to say who it is.
        """
        connection, _ = self._socket.accept()
        capacity = self._check(connection, patience)
        if capacity:
            return ShmReceiver(self.peer, connection, capacity, self.pin)
        connection.close()
        return None

    def close(self) -> None:
        """Stop listening. May be called twice."""
        self._socket.close()

    def _check(self, connection: socket.socket, patience: float) -> int:
        """The channel's capacity; 0 for somebody else."""
        if not same_user(connection) or not wait_any([connection], patience):
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
    """The sender for a listener's `address`; returns without waiting for its `accept`.

    Raises PeerGone when nobody listens there, ValueError for a capacity out of 1..MAX_CAPACITY.
    """
    check_capacity(capacity, MAX_CAPACITY)
    return connect_pool(address, peer, SlotPool(capacity, pin), timeout)


def connect_pool(address: str, peer: int, pool: SlotPool, timeout: float) -> ShmSender:
    """As `connect`, with slots that are there already."""
    name, _, token = address.partition("/")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(timeout)
        connection.connect(f"\0{name}")
        if not same_user(connection):
            raise TransportError(f"address {name!r} belongs to another user")
        connection.send(HELLO.pack(token.encode(), pool.capacity))
    except TimeoutError:
        connection.close()
        raise TransportTimeout(f"stage {peer} took no connection in {timeout:g} s") from None
    except OSError as error:
        connection.close()
        raise PeerGone(f"stage {peer} does not listen at {name!r} ({error})") from None
    except TransportError:
        connection.close()
        raise
    return ShmSender(peer, connection, pool)
