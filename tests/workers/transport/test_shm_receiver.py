"""What a receiver refuses, and what it may look at before it takes a message."""

from __future__ import annotations

import os
import random
import socket

import pytest
import torch

from dni_async.messages import Activation
from tests.support.conformance_messages import assert_same
from tests.support.gradients import ShmPair, gradient
from workers.transport.base import TransportError
from workers.transport.packets import PACKET_BYTES, PLACE
from workers.transport.slots import PAGE
from workers.transport.wire import WireError, add_checksum, encode

GOOD = encode(Activation(0, 0, torch.zeros(4), torch.zeros(4)))[0]


@pytest.mark.parametrize(
    "packet",
    [
        b"short",
        b"\0" * PACKET_BYTES,
        add_checksum(PLACE.pack(9, 1, 0) + GOOD),
        add_checksum(PLACE.pack(0, 1, 0) + GOOD),
        add_checksum(PLACE.pack(0, 1, 0) + GOOD) + b"more",
        PLACE.pack(0, 1, 0) + GOOD + b"seal",
    ],
)
def test_a_bad_packet_is_refused(ends: ShmPair, packet: bytes) -> None:
    sender, receiver = ends
    sender._socket.send(packet)
    with pytest.raises(WireError):
        receiver.recv(1.0)


def test_a_changed_packet_is_refused(ends: ShmPair) -> None:
    """Slot, generation, stamp, header or checksum: no other slot is read, nothing is guessed."""
    sender, receiver = ends
    for elements in (3, 5):
        sender.send(gradient(elements), 0.0)
        receiver.recv(0.0)
    good = add_checksum(PLACE.pack(0, 1, 0) + encode(gradient(3))[0])
    rng = random.Random(0)
    for _ in range(1000):
        packet = bytearray(good)
        if rng.random() < 0.2:
            packet = packet[: rng.randrange(1, len(good))] + rng.randbytes(rng.randrange(9))
        for _ in range(rng.randrange(1, 5)):
            packet[rng.randrange(len(packet))] ^= rng.randrange(1, 256)
        if packet == good:
            continue
        sender._socket.send(packet)
        with pytest.raises((WireError, TransportError)):
            receiver.recv(0.0)
    sender._socket.send(good)
    assert_same(receiver.recv(0.0), gradient(3))


def test_a_payload_beyond_its_slot_is_refused(ends: ShmPair) -> None:
    sender, receiver = ends
    sender.send(gradient(1), 0.0)
    receiver.recv(0.0)
    sender._socket.send(add_checksum(PLACE.pack(0, 1, 0) + encode(gradient(PAGE))[0]))
    with pytest.raises(WireError, match="payload of"):
        receiver.recv(1.0)


def test_a_file_that_could_shrink_is_refused(ends: ShmPair) -> None:
    sender, receiver = ends
    for descriptor in (os.memfd_create("soft", os.MFD_ALLOW_SEALING), os.open("/dev/null", os.O_RDWR)):
        socket.send_fds(sender._socket, [add_checksum(PLACE.pack(0, 1, 0) + GOOD)], [descriptor])
        os.close(descriptor)
        with pytest.raises(TransportError):
            receiver.recv(1.0)


def test_a_stamp_can_be_seen_before_the_message(ends: ShmPair) -> None:
    sender, receiver = ends
    for stamp in (7, 2**40):
        sender.stamp = stamp
        sender.send(gradient(stamp % 5), 0.0)
    for stamp in (7, 2**40):
        arrival = receiver.arrive(0.0)
        assert arrival.stamp == stamp
        assert_same(arrival.message(), gradient(stamp % 5))
