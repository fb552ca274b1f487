"""Messages between two stages that die and live again: each is taken once, in order, whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_async.messages import Marker, MarkerKind, TargetGradient
from tests.support.channels import Copying, copy_late
from tests.support.supervised_stages import CAPACITY, Killed, Lower, Upper, batch, end, kill
from workers.recovery import reconnecting_channel
from workers.recovery.dialing import ShmDial
from workers.recovery.journal import Journal
from workers.recovery.reconnecting_channel import ReconnectingSender
from workers.recovery.stable_storage import StableStorage
from workers.transport.base import Deadline, PeerGone, TransportTimeout, wait_any


@pytest.fixture
def pair() -> Iterator[tuple[Upper, Lower]]:
    upper, lower = stages()
    yield upper, lower
    end((upper, lower))


def stages() -> tuple[Upper, Lower]:
    below = StableStorage.create(1, 2, CAPACITY)
    lower = Lower(below)
    return Upper(StableStorage.create(0, 2, CAPACITY), below.listeners[0].address), lower


Pair = tuple[Upper, Lower]


def test_messages_come_once_and_in_order(pair: Pair) -> None:
    upper, lower = pair
    for step in range(7):
        upper.send(batch(step))
        assert lower.take() == f"A{step}"
    assert not lower.receiver.poll()


class TestTheReceiverDies:
    def test_messages_that_the_receiver_had_not_handled_come_again(self, pair: Pair) -> None:
        upper, lower = pair
        for step in range(3):
            upper.send(batch(step))
        lower.take()
        with pytest.raises(Killed):
            lower.take(kill)
        lower.die()
        lower.start()
        assert upper.sender.ready()  # the credit of the first arrived before the end of file
        assert [lower.take(), lower.take()] == ["A1", "A2"]

    def test_messages_that_the_receiver_had_handled_do_not_come_again(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upper, lower = pair
        upper.send(batch(0))
        commit = lower.journal.commit

        def commit_and_die() -> None:
            commit()
            raise Killed

        monkeypatch.setattr(lower.journal, "commit", commit_and_die)
        with pytest.raises(Killed):
            lower.take()
        lower.die()
        lower.start()
        upper.send(batch(1))
        assert lower.take() == "A1"

    def test_messages_may_be_sent_while_the_receiver_is_away(self, pair: Pair) -> None:
        upper, lower = pair
        lower.die()
        for step in range(CAPACITY):
            assert upper.sender.ready()
            upper.send(batch(step))
        assert not upper.sender.ready()
        with pytest.raises(TransportTimeout, match="stage 1 released no message"):
            upper.sender.send(batch(9), 0.01)
        lower.start()
        assert [lower.take() for _ in range(CAPACITY)] == ["A0", "A1", "A2"]
        assert upper.sender.ready()

    def test_a_dead_receiver_is_not_taken_for_gone(self, pair: Pair) -> None:
        upper, lower = pair
        upper.send(batch(0))
        lower.take()
        lower.die()
        assert not upper.sender.peer_gone()

    def test_a_receiver_whose_supervisor_died_is_gone(self, pair: Pair) -> None:
        upper, lower = pair
        upper.send(batch(0))
        lower.take()
        lower.die()
        lower.stable.listeners[0].close()
        assert upper.sender.peer_gone()
        for call in (upper.sender.ready, upper.sender.fileno, lambda: upper.send(batch(1))):
            with pytest.raises(PeerGone):
                call()


class TestTheSenderDies:
    def test_messages_under_way_arrive_when_the_sender_dies(self, pair: Pair) -> None:
        upper, lower = pair
        for step in range(3):
            upper.send(batch(step))
        upper.die()
        assert [lower.take(), lower.take()] == ["A0", "A1"]
        upper.start()
        assert upper.handled() == 3
        upper.sender.ready()
        assert lower.take() == "A2"
        assert not lower.receiver.poll()  # all three came again, and were released
        upper.send(batch(3))
        assert lower.take() == "A3"

    def test_messages_that_the_sender_sends_again_are_taken_once(self, pair: Pair) -> None:
        """It died between sending a message and writing it into the journal."""
        upper, lower = pair
        upper.send(batch(0))
        with pytest.raises(Killed):
            upper.send(batch(1), kill)
        upper.die()
        upper.start()
        assert upper.handled() == 1
        upper.send(batch(1))
        assert [lower.take(), lower.take()] == ["A0", "A1"]
        assert not lower.receiver.poll()
        upper.send(batch(2))
        assert lower.take() == "A2"
        assert not lower.receiver.poll()

    def test_a_slot_that_was_being_overwritten_is_not_read(self, pair: Pair) -> None:
        """Of a marker, whose body would be found broken."""
        upper, lower = pair
        upper.send(Marker(MarkerKind.REPORT, 1, 1, body={"a": 1}))
        assert lower.take() == "REPORT"
        slot = upper.send_log.reserve(1)[2]
        slot._map[:8] = b"garbage!"
        upper.die()
        upper.start()
        upper.send(batch(2))
        assert lower.take() == "A2"

    def test_a_dead_sender_is_not_taken_for_gone(self, pair: Pair) -> None:
        upper, lower = pair
        upper.send(batch(0))
        upper.die()
        lower.take()
        assert not lower.receiver.poll()
        assert not lower.receiver.peer_gone()
        with pytest.raises(TransportTimeout, match="stage 0 sent no message"):
            lower.receiver.recv(0.01)

    def test_a_sender_that_comes_back_wakes_a_sleeping_receiver(self, pair: Pair) -> None:
        upper, lower = pair
        upper.send(batch(0))
        lower.take()
        upper.die()
        assert not lower.receiver.poll()
        assert not wait_any([lower.receiver], 0.0)
        upper.start()
        upper.send(batch(1))
        assert wait_any([lower.receiver], 5.0)


def test_when_both_ends_die_nothing_is_lost(pair: Pair) -> None:
    upper, lower = pair
    for step in range(3):
        upper.send(batch(step))
    assert lower.take() == "A0"
    for stage in pair:
        stage.die()
    for stage in pair:
        stage.start()
    upper.sender.ready()
    assert [lower.take(), lower.take()] == ["A1", "A2"]


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.sampled_from("ssssttttSTud"), max_size=40))
def test_every_message_is_taken_once_and_in_order_whichever_end_dies_when(moves: list[str]) -> None:
    """s, t: send, take. S, T: the same, killed before the journal says so. u, d: killed between messages."""
    upper, lower = stages()
    for move in moves:
        if move in "sS" and upper.sender.ready():
            step = upper.handled()
            if move == "s":
                upper.send(batch(step))
            else:
                with pytest.raises(Killed):
                    upper.send(batch(step), kill)
        elif move in "tT" and lower.receiver.poll():
            if move == "t":
                lower.take()
            else:
                with pytest.raises(Killed):
                    lower.take(kill)
        for dying, stage in (("Su", upper), ("Td", lower)):
            if move in dying:
                stage.die()
                stage.start()
    for _ in range(2):  # what flies, and what a full send_log kept from being sent
        upper.sender.ready()
        while lower.receiver.poll():
            lower.take()
    assert lower.taken == [f"A{step}" for step in range(len(lower.taken))]
    assert upper.handled() <= len(lower.taken) <= upper.handled() + 1
    end((upper, lower))


def test_upstream_markers_and_targets_are_in_order_each_but_not_together(pair: Pair) -> None:
    """A marker of message 3 may come behind the target of message 5; sent again, both are known."""
    upper, lower = pair
    messages = [
        (5, TargetGradient(5, 0, torch.ones(2))),
        (3, Marker(MarkerKind.REPORT, 3, 1, returning=True)),
    ]
    for stamp, message in messages:
        upper.journal.stamp = stamp
        upper.sender.send(message, 0.0)
    assert lower.take() == "T5"
    upper.die()
    upper.start()
    upper.sender.ready()
    assert lower.take() == "REPORT"
    assert not lower.receiver.poll()


class Asked(Deadline):
    """A deadline that is reached when it has been asked a few times."""

    def left(self) -> float:
        self.timeout = max(0.0, self.timeout - 1.0)
        return self.timeout


class TestDraining:
    def test_waits_until_all_is_released(self, pair: Pair) -> None:
        upper, lower = pair
        upper.send(batch(0))
        with pytest.raises(TransportTimeout):
            upper.sender.drain(0.01)
        lower.take()
        upper.sender.drain(5.0)

    def test_brings_the_message_to_a_receiver_that_died(self, pair: Pair) -> None:
        upper, lower = pair
        upper.send(batch(0))
        with pytest.raises(Killed):
            lower.take(kill)
        lower.die()
        with pytest.raises(TransportTimeout):
            upper.sender.drain(0.01)
        lower.start()
        assert lower.take() == "A0"
        upper.sender.drain(5.0)

    def test_does_not_dial_a_stage_that_has_ended_whose_queue_may_be_full(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upper, lower = pair
        upper.send(batch(0))
        lower.die()
        upper.die()
        upper.start()
        monkeypatch.setattr(upper.sender._dial, "connect", lambda: pytest.fail("it dials"))
        upper.sender.drain(5.0, lambda: True)

    def test_does_not_dial_again_when_the_stage_has_ended_and_then_closed_its_end(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upper, lower = pair
        upper.send(batch(0))
        ended = [False, True]  # the end is published between the first question and the closing
        lower.die()
        monkeypatch.setattr(upper.sender._dial, "connect", lambda: pytest.fail("it dials"))
        upper.sender.drain(5.0, lambda: ended.pop(0))

    def test_ends_at_the_deadline_although_there_is_always_news(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upper, _ = pair
        upper.send(batch(0))
        news = iter([True] * 9)
        monkeypatch.setattr(reconnecting_channel, "Deadline", Asked)
        monkeypatch.setattr(reconnecting_channel, "wait_any", lambda *_: next(news))
        with pytest.raises(TransportTimeout, match=r"^stage 1 released no message in 3 s$"):
            upper.sender.drain(3.0)

    def test_goes_on_while_messages_are_released(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        upper, lower = pair
        for step in range(CAPACITY):
            upper.send(batch(step))
        monkeypatch.setattr(reconnecting_channel, "Deadline", Asked)
        upper.sender.drain(3.0, lambda: lower.take() == "nothing")
        assert lower.taken == ["A0", "A1", "A2"]

    def test_ends_when_no_receiver_listens_any_more(self, pair: Pair) -> None:
        upper, lower = pair
        upper.send(batch(0))
        lower.die()
        lower.stable.listeners[0].close()
        upper.sender.drain(5.0)


class TestAGpusCopy:
    def test_is_waited_for_before_the_journal_says_that_the_message_was_sent(self, pair: Pair) -> None:
        upper, lower = pair
        upper.sender._connected().copy_out = copy_late  # type: ignore[method-assign]
        upper.send(batch(0))
        assert lower.take() == "A0"

    def test_is_waited_for_by_draining(self, pair: Pair) -> None:
        upper, lower = pair
        copying = Copying(patience=30)
        upper.sender._connected().copy_out = lambda places, tensors: copying  # type: ignore[method-assign]
        upper.send(batch(0))
        upper.sender.drain(3.0, lambda: lower.take() == "nothing")
        assert lower.taken == ["A0"]

    def test_that_is_not_done_when_the_process_dies_is_not_sent_again(self, pair: Pair) -> None:
        upper, lower = pair
        begun: list[Copying] = []

        def copy_out(places, tensors):
            begun.append(Copying(10**9))
            return begun[-1]

        upper.sender._connected().copy_out = copy_out  # type: ignore[method-assign]
        with pytest.raises(Killed):
            upper.send(batch(0), kill)
        upper.die()
        upper.start()
        upper.sender.ready()
        assert not lower.receiver.poll()
        upper.send(batch(0))
        assert lower.take() == "A0"


class TestAReceiverThatRefusesEveryConnection:
    """As one that accepts another capacity only, or whose token is another."""

    @pytest.fixture
    def sender(self) -> Iterator[ReconnectingSender]:
        storage, other = StableStorage.create(0, 2, CAPACITY), StableStorage.create(1, 2, CAPACITY)
        listener = other.listeners[0]
        address = listener.address.partition("/")[0] + "/" + "0" * 32
        storage.send_logs[1].recover(pin=False)
        ended = threading.Event()

        def refuse() -> None:
            while not ended.is_set():
                listener.admit(0.05)

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        send_log, journal = storage.send_logs[1], Journal(storage.journal, 1.0)
        yield ReconnectingSender(1, ShmDial(address, 1, send_log, 0.3), send_log, journal, 0.3)
        ended.set()
        thread.join()
        storage.close()
        other.close()

    def test_is_given_up_at_the_deadline_by_a_loop_that_waits(self, sender: ReconnectingSender) -> None:
        with pytest.raises(TransportTimeout, match=r"stage 1 refused every connection for 0\.3 s"):
            while True:
                sender.ready()
                wait_any([sender], 1.0)

    def test_is_given_up_at_the_deadline_by_draining(self, sender: ReconnectingSender) -> None:
        sender.send(batch(0), 1.0)
        with pytest.raises(TransportTimeout):
            sender.drain(5.0)


def test_a_capacity_that_no_receiver_takes_is_refused_before_anything_connects() -> None:
    with pytest.raises(ValueError, match="capacity is 129"):
        StableStorage.create(0, 2, 129)
