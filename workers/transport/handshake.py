"""How the two ends of a TCP connection prove to each other that they belong to the same job.

    sender                                               receiver (listens)
             <-- magic, receiver's nonce --------------  on every new connection
    hello, HMAC(secret, "sender", nonces, hello) ----->  compares, or hangs up
    compares <-- HMAC(secret, "receiver", ...) --------

The secret itself never travels. A recorded handshake is worthless, because both sides choose a fresh nonce,
and the label keeps one side's proof from serving as the other's. Every packet has a fixed size, so nobody
parses what a stranger sent. The handshake does not encrypt what follows it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass

_MAGIC = b"DNI-TCP1"
_NONCE_BYTES = 32
_PROOF_BYTES = hashlib.sha256().digest_size
_FIELDS = struct.Struct(f"<8s{_NONCE_BYTES}sBBI")

CHALLENGE_BYTES = len(_MAGIC) + _NONCE_BYTES
HELLO_BYTES = _FIELDS.size + _PROOF_BYTES
ANSWER_BYTES = _PROOF_BYTES


class HandshakeError(RuntimeError):
    """The other side does not speak this protocol, or does not know the secret."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a sender says about one connection of its channel."""

    stripe: int
    """Index of this connection."""
    stripes: int
    """Connections of the channel."""
    capacity: int
    """Messages that may be in flight in the channel."""


def new_secret() -> bytes:
    """A random secret for one channel."""
    return secrets.token_bytes(32)


def make_challenge() -> bytes:
    """The receiver's first words: magic and a fresh nonce."""
    return _MAGIC + secrets.token_bytes(_NONCE_BYTES)


def make_hello(secret: bytes, challenge: bytes, hello: Hello) -> bytes:
    """The sender's reply to a challenge. Raises HandshakeError when the challenge is not one."""
    if len(challenge) != CHALLENGE_BYTES or not challenge.startswith(_MAGIC):
        raise HandshakeError("it does not speak our protocol")
    nonce = secrets.token_bytes(_NONCE_BYTES)
    fields = _FIELDS.pack(_MAGIC, nonce, hello.stripe, hello.stripes, hello.capacity)
    return fields + _proof(secret, b"sender", challenge, fields)


def check_hello(secret: bytes, challenge: bytes, packet: bytes) -> Hello:
    """What the sender says in reply to our challenge. Raises HandshakeError unless it knows the secret."""
    if len(packet) != HELLO_BYTES or not packet.startswith(_MAGIC):
        raise HandshakeError("it does not speak our protocol")
    fields, proof = packet[: _FIELDS.size], packet[_FIELDS.size :]
    if not hmac.compare_digest(proof, _proof(secret, b"sender", challenge, fields)):
        raise HandshakeError("it does not know the secret of this job")
    _, _, stripe, stripes, capacity = _FIELDS.unpack(fields)
    if not (stripe < stripes and capacity):
        raise HandshakeError(f"it asks for stripe {stripe} of {stripes} and {capacity} messages in flight")
    return Hello(stripe, stripes, capacity)


def make_answer(secret: bytes, challenge: bytes, packet: bytes) -> bytes:
    """The receiver's proof, in reply to a hello that was checked."""
    return _proof(secret, b"receiver", challenge, packet[: _FIELDS.size])


def check_answer(secret: bytes, challenge: bytes, packet: bytes, answer: bytes) -> None:
    """Raises HandshakeError unless the receiver that took our hello knows the secret."""
    if not hmac.compare_digest(answer, make_answer(secret, challenge, packet)):
        raise HandshakeError("it does not know the secret of this job")


def _proof(secret: bytes, role: bytes, challenge: bytes, fields: bytes) -> bytes:
    return hmac.digest(secret, role + challenge + fields, hashlib.sha256)
