"""How a sender reaches the stage that listens, when strangers fill the listener's queue."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import torch

from dni_async.messages import Activation
from tests.support.supervised_stages import CAPACITY, Lower, Upper
from workers.recovery.dialing import ShmDial
from workers.recovery.stable_storage import StableStorage
from workers.transport.base import PeerGone, TransportTimeout, wait_any
from workers.transport.shm import ShmListener

BATCH = Activation(0, 0, torch.ones(4, 3), torch.arange(4))


def fill(listener: ShmListener) -> list[socket.socket]:
    """Connect until the queue is full; returns the connections."""
    strangers: list[socket.socket] = []
    while True:
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        strangers.append(stranger)
        stranger.setblocking(False)
        try:
            stranger.connect("\0" + listener.address.partition("/")[0])
        except BlockingIOError:
            return strangers
        stranger.send(b"let me in")


@pytest.fixture
def below() -> Iterator[StableStorage]:
    """Of stage 1, at whose listener strangers hold all places."""
    storage = StableStorage.create(1, 2, CAPACITY)
    strangers = fill(storage.listeners[0])
    yield storage
    for stranger in strangers:
        stranger.close()
    storage.close()


def test_a_stage_goes_on_while_the_queue_is_full_and_is_let_in_when_it_is_empty(below: StableStorage) -> None:
    upper, lower = Upper(StableStorage.create(0, 2, CAPACITY), below.listeners[0].address), Lower(below)
    assert upper.sender.ready()
    upper.send(BATCH)
    assert not lower.receiver.poll()  # turns the strangers away
    while not lower.receiver.poll():
        assert upper.sender.ready() and wait_any([upper.sender, lower.receiver], 5.0)
    assert lower.take() == "A0"
    upper.die()
    lower.die()
    upper.stable.close()


class TestADial:
    @pytest.fixture
    def dial(self, below: StableStorage) -> Iterator[ShmDial]:
        above = StableStorage.create(0, 2, CAPACITY)
        dial = ShmDial(below.listeners[0].address, 1, above.send_logs[1], 0.2)
        yield dial
        dial.close()
        above.close()

    def test_gives_up_when_the_queue_was_full_for_its_timeout(self, dial: ShmDial) -> None:
        with pytest.raises(TransportTimeout, match=r"stage 1 took no connection in 0\.2 s"):
            while dial.connect() is None:
                assert wait_any([dial], 5.0)

    def test_says_that_nobody_listens_any_more(self, dial: ShmDial, below: StableStorage) -> None:
        assert dial.connect() is None
        below.listeners[0].close()
        with pytest.raises(PeerGone):
            dial.connect()
