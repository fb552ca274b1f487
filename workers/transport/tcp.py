"""Channels between hosts: messages stream over TCP, and no message waits for a round trip.

    sender's caller     sender's thread              receiver's thread        receiver's caller
    copy the tensors
    into a free slot -> header and payload  ------>  into a free slot ------> use the tensors in place
    the slot is free    <------------------------ one byte: a credit -------- release()
    close -----------> end of file          ------>  all messages are read
    closed              <--------------------------  end of file

A sender may have `capacity` messages on the way, so the wire is full while `capacity` messages take longer
to send than a credit takes to come back. Both ends hold at most `capacity` slots, which are used again; where
the stage computes on a GPU they are pinned, and copies go on beside the computation. The receiver has a slot
for every credit, so its thread always reads, and the kernel's buffers never fill up behind a busy stage.

One connection carries no more per round trip than the kernel's buffers hold (4 MB is common), so a channel
has several where round trips are long: message n goes over connection n modulo their number, and the receiver
puts messages in order again.

Who connects has to prove that it knows the channel's secret (`workers.transport.handshake`); everybody else
is turned away, and the listener goes on. What follows is neither encrypted nor unpickled. `tcp_sender` and
`tcp_receiver` are the ends, `tcp_listener` lets senders in, `tcp_socket` has the options of the sockets.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from typing_extensions import override

from workers.coordination.rendezvous import Rendezvous
from workers.recovery.journal import Journal
from workers.recovery.reconnecting_channel import ReconnectingSender
from workers.recovery.reconnecting_receiver import ReconnectingReceiver
from workers.recovery.stable_storage import StableStorage
from workers.recovery.tcp_dial import TcpDial
from workers.recovery.tcp_reception import TcpReception
from workers.transport.addresses import connecting_host, listening_host
from workers.transport.base import Deadline, PeerGone, TransportError, TransportTimeout, check_capacity
from workers.transport.handshake import HandshakeError, Hello, new_secret
from workers.transport.links import Link, LinkRequest, Transport, drain_at_end, publish_end
from workers.transport.tcp_connect import Address, open_connection, prove
from workers.transport.tcp_listener import TcpListener
from workers.transport.tcp_sender import TcpSender
from workers.transport.tcp_socket import cause, configure

_MOST_STRIPES = 8
_ROUND_TRIP_S = 0.01
"""Seconds of round trip for which one connection is enough: 4 MB in that time are 3 Gbit/s."""


class TcpTransport(Transport):
    """Links over TCP.

    A channel's secret is derived from the job's, which every rank has in its environment. A job without one
    (torchrun's) gets a random secret for each channel, published in the store beside the address: whoever
    can read the store can then join a channel.
    """

    restartable = True

    @override
    def open(self, request: LinkRequest) -> dict[int, Link]:
        if request.recovery:
            return _open_lasting(request, *request.recovery)
        rendezvous, timeout, pin = request.rendezvous, request.timeout, request.device.type == "cuda"
        links = {}
        for n, listener in listen(rendezvous, request.neighbours, "tcp", timeout, pin).items():
            address, secret = find(rendezvous, n, "tcp", timeout)
            sender = connect(address, secret, n, request.capacity, timeout, pin=pin)
            links[n] = request.link(sender, listener.accept(timeout))
        return links


def _open_lasting(request: LinkRequest, storage: StableStorage, journal: Journal) -> dict[int, Link]:
    """The links of a supervised stage, which outlast their connections."""
    rendezvous, timeout, pin = request.rendezvous, request.timeout, request.device.type == "cuda"
    receptions = {}
    for n in request.neighbours:
        ours, channel = storage.tcp_sockets[n], f"tcp/{n}-{rendezvous.rank}"
        secret = b"" if rendezvous.secret else ours.secret
        receptions[n] = TcpReception(n, ours.listener, secret or _derive(rendezvous, channel), timeout, pin)
        rendezvous.publish(channel, [ours.host, ours.port, secret.hex()])
    links = {}
    for n, reception in receptions.items():
        send_log = storage.send_logs[n]
        send_log.recover(pin)
        dial = TcpDial(*find(rendezvous, n, "tcp", timeout), n, send_log, timeout)
        sender = ReconnectingSender(n, dial, send_log, journal, timeout)
        links[n] = request.link(sender, ReconnectingReceiver(reception, journal, f"from {n}"))
        drain_at_end(request, n, sender)
    publish_end(request)
    return links


def listen(
    rendezvous: Rendezvous, neighbours: Sequence[int], purpose: str, timeout: float, pin: bool = False
) -> dict[int, TcpListener]:
    """A listener for each neighbour, its address published for `find`.

    Args:
        purpose: Tells the channels of two ranks apart; "tcp" is that of the messages.
    """
    rank, host, listeners = rendezvous.rank, listening_host() if neighbours else "", {}
    for n in neighbours:
        secret = b"" if rendezvous.secret else new_secret()
        channel = f"{purpose}/{n}-{rank}"
        listeners[n] = TcpListener(n, host, secret or _derive(rendezvous, channel), timeout, pin)
        rendezvous.publish(channel, [*listeners[n].address, secret.hex()])
    return listeners


def find(rendezvous: Rendezvous, neighbour: int, purpose: str, timeout: float) -> tuple[Address, bytes]:
    """Where a neighbour listens to this rank, and the secret of that channel. Raises Late."""
    channel = f"{purpose}/{rendezvous.rank}-{neighbour}"
    where, port, published = rendezvous.read(channel, timeout)
    return (connecting_host(where), port), bytes.fromhex(published) or _derive(rendezvous, channel)


def connect(
    address: Address,
    secret: bytes,
    peer: int,
    capacity: int,
    timeout: float,
    *,
    pin: bool = False,
    stripes: int = 0,
) -> TcpSender:
    """The sender of the channel whose receiver listens at `address`.

    Args:
        secret: The channel's, which the listener has as well.
        peer: The receiver's stage.
        capacity: Messages that may be in flight.
        timeout: Seconds to connect, and later for the receiver to take a message before it counts as gone.
        pin: Register the slots with CUDA.
        stripes: TCP connections that share the messages; 0: one for every 10 ms of round trip, at most 8.

    Raises:
        ValueError: The capacity is below 1.
        TransportError: As `open_connections`.
    """
    check_capacity(capacity)
    connections = open_connections(address, secret, peer, capacity, timeout, stripes)
    return TcpSender(peer, connections, capacity, timeout, pin)


def open_connections(
    address: Address, secret: bytes, peer: int, capacity: int, timeout: float, stripes: int = 0
) -> list[socket.socket]:
    """The connections of the channel whose receiver listens at `address`; see `connect`.

    Raises:
        PeerGone: Nobody listens there.
        TransportTimeout: Nobody answered in time.
        TransportError: The listener belongs to another job, or speaks another protocol.
    """
    deadline = Deadline(timeout)
    with ExitStack() as stack:
        try:
            connections = _open_stripes(address, secret, capacity, stripes, deadline, stack)
        except (OSError, HandshakeError) as error:
            raise _explained(error, f"{address[0]}:{address[1]}", peer, timeout) from None
        stack.pop_all()
    for connection in connections:
        configure(connection, timeout)
    return connections


def _open_stripes(
    address: Address, secret: bytes, capacity: int, stripes: int, deadline: Deadline, stack: ExitStack
) -> list[socket.socket]:
    """All connections, in their order; the stack closes them."""
    begin = time.monotonic()
    first = stack.enter_context(open_connection(address, deadline))
    stripes = stripes or min(_MOST_STRIPES, math.ceil((time.monotonic() - begin) / _ROUND_TRIP_S))

    def stripe(index: int) -> socket.socket:
        connection = stack.enter_context(open_connection(address, deadline)) if index else first
        prove(connection, secret, Hello(index, stripes, capacity), deadline)
        return connection

    with ThreadPoolExecutor(stripes) as pool:  # or each would take two round trips after the other
        return list(pool.map(stripe, range(stripes)))


def _explained(error: OSError | HandshakeError, where: str, peer: int, timeout: float) -> TransportError:
    if isinstance(error, TimeoutError):
        return TransportTimeout(f"stage {peer} did not answer at {where} in {timeout:g} s")
    if isinstance(error, HandshakeError):
        return TransportError(f"what listens at {where} is not stage {peer} of this job: {error}")
    return PeerGone(f"stage {peer} does not listen at {where} ({cause(error)})")


def _derive(rendezvous: Rendezvous, channel: str) -> bytes:
    """The secret of one channel, in this attempt of the job."""
    return hmac.digest(rendezvous.secret, f"{channel}/{rendezvous.restart}".encode(), hashlib.sha256)
