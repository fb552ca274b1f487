"""TCP channels over the loopback interface, and peers that vanish or misbehave."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import ExitStack

from tests.support.conformance import TEST_TIMEOUT_S
from workers.transport.handshake import (
    ANSWER_BYTES,
    CHALLENGE_BYTES,
    HELLO_BYTES,
    Hello,
    check_hello,
    make_answer,
    make_challenge,
    make_hello,
)
from workers.transport.tcp import Address, connect
from workers.transport.tcp_listener import TcpListener
from workers.transport.tcp_receiver import TcpReceiver
from workers.transport.tcp_sender import TcpSender

SECRET = b"the secret of a test"
HOST = "127.0.0.1"

_SO_ATTACH_FILTER = 26


def listen(peer: int = 1, timeout: float = TEST_TIMEOUT_S) -> TcpListener:
    return TcpListener(peer, HOST, SECRET, timeout)


def tcp_channel(
    capacity: int,
    sender_stage: int = 0,
    receiver_stage: int = 1,
    stripes: int = 1,
    timeout: float = TEST_TIMEOUT_S,
) -> tuple[TcpSender, TcpReceiver]:
    """Both ends of a channel."""
    listener = listen(sender_stage, timeout)
    sender = connect(listener.address, SECRET, receiver_stage, capacity, timeout, stripes=stripes)
    return sender, listener.accept(TEST_TIMEOUT_S)


def receiver_of_raw_socket(capacity: int = 2) -> tuple[socket.socket, TcpReceiver]:
    """A receiver, and the socket of a peer that knows the secret and then sends what it likes."""
    listener = listen()
    raw = introduce(listener.address, Hello(0, 1, capacity))
    return raw, listener.accept(TEST_TIMEOUT_S)


def introduce(address: Address, hello: Hello, secret: bytes = SECRET) -> socket.socket:
    """Connect as one stripe of a sender, and wait for the listener's answer."""
    with ExitStack() as stack:
        raw = stack.enter_context(socket.create_connection(address, TEST_TIMEOUT_S))
        raw.sendall(make_hello(secret, read(raw, CHALLENGE_BYTES), hello))
        read(raw, ANSWER_BYTES)
        stack.pop_all()
    return raw


def sender_of_raw_socket(
    capacity: int = 2, timeout: float = TEST_TIMEOUT_S
) -> tuple[TcpSender, socket.socket]:
    """A sender, and the socket of a peer that knows the secret and then sends what it likes."""
    with socket.create_server((HOST, 0)) as server, Answering(server) as answering:
        server.settimeout(TEST_TIMEOUT_S)
        sender = connect(server.getsockname(), SECRET, 1, capacity, timeout, stripes=1)
    return sender, answering.raw


class Answering:
    """A thread that takes part in one handshake as a receiver."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join(2 * TEST_TIMEOUT_S)
        assert not self._thread.is_alive(), "no handshake"

    def _run(self) -> None:
        self.raw, _ = self._server.accept()
        self.raw.settimeout(TEST_TIMEOUT_S)
        challenge = make_challenge()
        self.raw.sendall(challenge)
        packet = read(self.raw, HELLO_BYTES)
        check_hello(SECRET, challenge, packet)
        self.raw.sendall(make_answer(SECRET, challenge, packet))


def read(raw: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    data = raw.recv(size, socket.MSG_WAITALL)
    assert len(data) == size, data
    return data


def vanish(connections: Iterable[socket.socket]) -> None:
    """Let the host of these sockets be unreachable, as when a cable is pulled."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes
    program = struct.pack("HP", 1, ctypes.addressof(drop_all))
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
        connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
