"""The handshake of TCP connections: nobody gets in without the secret."""

from __future__ import annotations

import random

import pytest

from workers.transport.handshake import (
    CHALLENGE_BYTES,
    HELLO_BYTES,
    HandshakeError,
    Hello,
    check_answer,
    check_hello,
    make_answer,
    make_challenge,
    make_hello,
    new_secret,
)

SECRET = new_secret()
HELLO = Hello(stripe=1, stripes=3, capacity=8)


def test_two_peers_that_know_the_secret_accept_each_other() -> None:
    challenge = make_challenge()
    packet = make_hello(SECRET, challenge, HELLO)
    assert (len(challenge), len(packet)) == (CHALLENGE_BYTES, HELLO_BYTES)
    assert check_hello(SECRET, challenge, packet) == HELLO
    check_answer(SECRET, challenge, packet, make_answer(SECRET, challenge, packet))


def test_another_secret_is_refused_on_both_sides() -> None:
    challenge, other = make_challenge(), new_secret()
    packet = make_hello(SECRET, challenge, HELLO)
    with pytest.raises(HandshakeError, match="does not know the secret"):
        check_hello(other, challenge, packet)
    with pytest.raises(HandshakeError, match="does not know the secret"):
        check_answer(SECRET, challenge, packet, make_answer(other, challenge, packet))


def test_a_recorded_hello_is_refused_by_the_next_challenge() -> None:
    packet = make_hello(SECRET, make_challenge(), HELLO)
    with pytest.raises(HandshakeError, match="does not know the secret"):
        check_hello(SECRET, make_challenge(), packet)


def test_the_proof_of_one_side_is_not_that_of_the_other() -> None:
    challenge = make_challenge()
    packet = make_hello(SECRET, challenge, HELLO)
    assert packet[-32:] != make_answer(SECRET, challenge, packet)


def test_the_secret_does_not_travel() -> None:
    challenge = make_challenge()
    packet = make_hello(SECRET, challenge, HELLO)
    assert SECRET not in challenge + packet + make_answer(SECRET, challenge, packet)


def test_a_changed_hello_is_refused() -> None:
    rng, challenge = random.Random(0), make_challenge()
    good = make_hello(SECRET, challenge, HELLO)
    for _ in range(500):
        packet = bytearray(good)
        packet[rng.randrange(len(packet))] ^= rng.randrange(1, 256)
        with pytest.raises(HandshakeError):
            check_hello(SECRET, challenge, bytes(packet))
    for size in (0, 1, HELLO_BYTES - 1):
        with pytest.raises(HandshakeError, match="protocol"):
            check_hello(SECRET, challenge, good[:size])


@pytest.mark.parametrize("challenge", [b"", b"SSH-2.0-OpenSSH_9.2".ljust(CHALLENGE_BYTES), b"DNI-TCP1"])
def test_nothing_is_said_to_another_protocol(challenge: bytes) -> None:
    with pytest.raises(HandshakeError, match="does not speak our protocol"):
        make_hello(SECRET, challenge, HELLO)


@pytest.mark.parametrize("hello", [Hello(3, 3, 1), Hello(0, 0, 1), Hello(0, 1, 0)])
def test_an_impossible_channel_is_refused(hello: Hello) -> None:
    challenge = make_challenge()
    with pytest.raises(HandshakeError, match="it asks for"):
        check_hello(SECRET, challenge, make_hello(SECRET, challenge, hello))
