"""One TCP connection to a listener, and the sender's side of the handshake on it."""

from __future__ import annotations

import socket

from workers.transport.base import Deadline
from workers.transport.handshake import (
    ANSWER_BYTES,
    CHALLENGE_BYTES,
    HandshakeError,
    Hello,
    check_answer,
    make_hello,
)
from workers.transport.tcp_socket import receive_into, widen

Address = tuple[str, int]
"""Host and port."""


def open_connection(address: Address, deadline: Deadline) -> socket.socket:
    """A connection to the first of the host's addresses that answers; its operations end at the deadline."""
    refused = OSError("the host has no address")
    for family, kind, protocol, _, target in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            widen(connection)
            connection.settimeout(deadline.left() or 1e-3)
            connection.connect(target)
            return connection
        except OSError as error:
            connection.close()
            refused = error
    raise refused


def prove(connection: socket.socket, secret: bytes, hello: Hello, deadline: Deadline) -> None:
    """Take part in the handshake."""
    challenge, answer = bytearray(CHALLENGE_BYTES), bytearray(ANSWER_BYTES)
    if not receive_into(connection, challenge, deadline):
        raise HandshakeError("it hung up at once")
    packet = make_hello(secret, bytes(challenge), hello)
    connection.sendall(packet)
    if not receive_into(connection, answer, deadline):
        raise HandshakeError("it does not accept the secret of this job")
    check_answer(secret, bytes(challenge), packet, bytes(answer))
