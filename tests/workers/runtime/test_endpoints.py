from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dni_async.messages import Marker, MarkerKind, Message, TargetGradient
from tests.support.channels import CHANNELS
from tests.support.stages import batches
from workers.runtime.endpoints import DrainingReceiver, Sink, Source
from workers.transport.base import PeerGone, Receiver, Sender, TransportTimeout, wait_any


def target(step: int) -> TargetGradient:
    return TargetGradient(step, 0, torch.full((3, 2), float(step)))


def test_the_source_is_always_ready_and_gives_its_messages_in_order() -> None:
    messages = batches([4, 4])
    source = Source(iter(messages))
    for message in messages:
        assert source.poll()
        assert source.recv(0.0) is message
        source.release()
    assert not source.peer_gone()


def test_the_source_makes_a_message_only_when_it_is_asked() -> None:
    made = []

    def lazily() -> Iterator[Message]:
        for message in batches([4] * 3):
            made.append(message)
            yield message

    source = Source(lazily())
    source.recv(0.0)
    assert source.poll()
    assert len(made) == 1


def test_the_sink_hands_markers_to_the_report_and_takes_nothing_else() -> None:
    reported: list[Marker] = []
    sink, marker = Sink(reported.append), Marker(MarkerKind.EPOCH, 3, 1, returning=True)
    assert sink.ready()
    sink.send(marker, 0.0)
    assert reported == [marker]
    with pytest.raises(AssertionError):
        sink.send(target(0), 0.0)
    assert (sink.held_bytes(), sink.peer_gone()) == (0, False)


def test_nobody_waits_on_source_or_sink() -> None:
    for end in (Source(iter(())), Sink(print)):
        with pytest.raises(AssertionError, match="always ready"):
            end.fileno()
        assert end.peer == -1


@pytest.fixture(params=CHANNELS)
def drained(request: pytest.FixtureRequest) -> Iterator[tuple[Sender, Receiver]]:
    sender, receiver = CHANNELS[request.param](2, 1, 0)
    with sender, DrainingReceiver(receiver) as end:
        yield sender, end


class TestDrained:
    """What arrived makes room at the sender before it is its turn."""

    def test_polling_makes_room(self, drained: tuple[Sender, Receiver]) -> None:
        sender, end = drained
        for step in range(5):
            assert sender.ready()
            sender.send(target(step), 1.0)
            assert end.poll()

    def test_all_arrive_in_order_and_in_memory_of_their_own(self, drained: tuple[Sender, Receiver]) -> None:
        sender, end = drained
        for step in range(5):
            sender.send(target(step), 1.0)
            assert end.poll()
        sender.send(Marker(MarkerKind.STOP, 5, 0, returning=True), 1.0)
        received = [end.recv(1.0) for _ in range(6)]
        end.release()
        assert [m.step for m in received] == [0, 1, 2, 3, 4, 5]
        for message in received[:5]:
            assert isinstance(message, TargetGradient)
            assert torch.equal(message.grad, torch.full((3, 2), float(message.step)))
        assert not end.poll()

    def test_the_channel_is_quiet_while_messages_wait_and_wakes_at_the_next(
        self, drained: tuple[Sender, Receiver]
    ) -> None:
        sender, end = drained
        sender.send(target(0), 1.0)
        assert wait_any([end], 1.0)
        assert end.poll()
        assert not wait_any([end], 0.0)
        sender.send(target(1), 1.0)
        assert wait_any([end], 1.0)

    def test_a_peer_that_left_is_news_once_all_it_sent_is_taken(
        self, drained: tuple[Sender, Receiver]
    ) -> None:
        sender, end = drained
        sender.send(target(0), 1.0)
        sender.send(target(1), 1.0)
        sender.close()
        for step in range(2):
            assert end.poll()
            assert end.recv(1.0).step == step
        with pytest.raises(PeerGone):
            end.poll()
        assert end.peer_gone()
        assert end.peer == 1

    def test_nothing_comes_before_the_deadline(self, drained: tuple[Sender, Receiver]) -> None:
        with pytest.raises(TransportTimeout):
            drained[1].recv(0.01)

    def test_what_counts_as_arrived_comes_before_all_that_is_sent(self) -> None:
        sender, receiver = CHANNELS["memory"](2, 1, 0)
        with sender, DrainingReceiver(receiver, [target(3), target(4)]) as end:
            assert end.poll()
            sender.send(target(5), 1.0)
            assert end.poll()
            assert [end.recv(1.0).step for _ in range(3)] == [3, 4, 5]
