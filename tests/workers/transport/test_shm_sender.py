"""What a sender refuses, and messages whose copy takes its time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tests.support.channels import Copying, copy_late
from tests.support.conformance_messages import assert_same
from tests.support.gradients import ShmPair, gradient
from workers.transport.base import PeerGone, TransportError, TransportTimeout
from workers.transport.packets import CREDIT


@pytest.mark.parametrize("credit", [b"x", CREDIT.pack(7), CREDIT.pack(0)])
def test_a_bad_credit_is_refused(ends: ShmPair, credit: bytes) -> None:
    sender, receiver = ends
    sender.send(gradient(1), 0.0)
    receiver._socket.send(credit)
    with pytest.raises(TransportError, match="credit"):
        sender.ready()


class TestAMessageWhoseCopyIsUnderWay:
    @pytest.fixture
    def copies(self, ends: ShmPair, monkeypatch: pytest.MonkeyPatch) -> list[Copying]:
        """All copies that were begun, each under way until it is told otherwise."""
        begun: list[Copying] = []

        def copy_out(places: Sequence[torch.Tensor], tensors: Sequence[torch.Tensor]) -> Copying:
            begun.append(copy_late(places, tensors))
            return begun[-1]

        monkeypatch.setattr(ends[0], "copy_out", copy_out)
        return begun

    def test_leaves_when_it_is_done(self, ends: ShmPair, copies: list[Copying]) -> None:
        sender, receiver = ends
        sender.send(gradient(10), 0.0)
        assert not receiver.poll()
        assert sender.ready()
        assert not receiver.poll()
        copies[0].finished = True
        assert sender.ready()
        assert_same(receiver.recv(0.0), gradient(10))

    def test_does_not_overtake(self, ends: ShmPair, copies: list[Copying]) -> None:
        sender, receiver = ends
        sender.send(gradient(10), 0.0)
        sender.send(gradient(11), 0.0)
        copies[1].finished = True
        assert not sender.ready()
        assert not receiver.poll()
        copies[0].finished = True
        sender.ready()
        assert [receiver.recv(0.0).grad.numel() for _ in range(2)] == [10, 11]

    def test_is_sent_before_the_sender_sleeps(self, ends: ShmPair, copies: list[Copying]) -> None:
        sender, receiver = ends
        sender.send(gradient(10), 0.0)
        sender.flush(5.0)
        assert receiver.poll()

    def test_is_sent_by_a_poke_if_it_is_done(self, ends: ShmPair, copies: list[Copying]) -> None:
        sender, receiver = ends
        for elements in (10, 11):
            sender.send(gradient(elements), 0.0)
        copies[0].finished = True
        assert sender.poke() and receiver.recv(0.0).grad.numel() == 10
        copies[1].finished = True
        assert not sender.poke() and receiver.recv(0.0).grad.numel() == 11

    def test_is_sent_before_the_next_is_waited_for(self, ends: ShmPair, copies: list[Copying]) -> None:
        sender, receiver = ends
        for elements in (10, 11):
            sender.send(gradient(elements), 0.0)
        copies[1].query = lambda: False  # type: ignore[method-assign]
        with pytest.raises(TransportTimeout):
            sender.flush(0.05)
        assert receiver.poll()

    def test_is_sent_before_the_sender_waits_for_its_slot(self, ends: ShmPair, copies: list[Copying]) -> None:
        sender, receiver = ends
        for elements in (10, 11):
            sender.send(gradient(elements), 0.0)
        with pytest.raises(TransportTimeout):
            sender.send(gradient(12), 0.1)
        assert receiver.poll()

    def test_arrives_though_the_sender_is_closed(self, ends: ShmPair, copies: list[Copying]) -> None:
        sender, receiver = ends
        sender.send(gradient(10), 0.0)
        sender.close()
        assert_same(receiver.recv(0.0), gradient(10))
        with pytest.raises(PeerGone):
            receiver.poll()

    def test_is_given_up_at_the_deadline_when_it_never_ends(
        self, ends: ShmPair, copies: list[Copying]
    ) -> None:
        sender, _ = ends
        sender.send(gradient(10), 0.0)
        copies[0].query = lambda: False  # type: ignore[method-assign]
        with pytest.raises(TransportTimeout, match="was not done in"):
            sender.flush(0.01)
