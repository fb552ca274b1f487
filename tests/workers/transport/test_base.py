"""Doorbell, wait_any, Deadline, and the queues made of them."""

import contextlib
import select
import threading
import time

import pytest

from dni_async.messages import Marker, MarkerKind
from workers.transport.base import (
    Deadline,
    Doorbell,
    PeerGone,
    TransportError,
    TransportTimeout,
    check_capacity,
    wait_any,
)
from workers.transport.queues import Credits, Inbox


def test_a_doorbell_rings_until_acknowledged() -> None:
    bell = Doorbell()
    assert not wait_any([bell], 0.0)
    bell.ring()
    bell.ring()
    assert wait_any([bell], 0.0)
    bell.acknowledge()
    bell.acknowledge()
    assert not wait_any([bell], 0.01)
    bell.close()
    bell.close()
    bell.ring()
    bell.acknowledge()


def test_a_doorbell_wakes_a_sleeper() -> None:
    bell, quiet = Doorbell(), Doorbell()
    thread = threading.Timer(0.02, bell.ring)
    thread.start()
    begin = time.monotonic()
    assert wait_any([quiet, bell], 10.0)
    assert time.monotonic() - begin < 5.0
    thread.join()
    bell.close()
    quiet.close()


def test_a_deadline_ends_at_zero() -> None:
    assert Deadline(-1.0).left() == 0.0
    assert 0.0 < Deadline(5.0).left() <= 5.0


def test_an_inbox_returns_all_messages_before_its_end() -> None:
    inbox = Inbox()
    marker = Marker(MarkerKind.STOP, 0, 0)
    inbox.put(marker)
    inbox.fail(PeerGone("first"))
    inbox.fail(TransportError("second"))
    assert inbox.get(0.0) is marker
    for _ in range(2):
        with pytest.raises(PeerGone, match="first"):
            inbox.get(1.0)
    inbox.close()
    with pytest.raises(TransportError, match="closed"):
        inbox.poll()


def test_credits_run_out_and_come_back() -> None:
    credits = Credits(1)
    credits.take(0.0)
    assert not credits.ready()
    with pytest.raises(TransportTimeout, match="no credit came back"):
        credits.take(0.01)
    credits.give()
    assert wait_any([credits], 0.0)
    credits.take(0.0)
    credits.close()


def test_capacity_is_checked() -> None:
    assert check_capacity(128) == 128
    with pytest.raises(ValueError, match="capacity is 0; use 1 to 128"):
        check_capacity(0)
    with pytest.raises(ValueError, match="capacity is 129; use 1 to 128"):
        check_capacity(129)


class Asked:
    """Counts how often its descriptor is asked for; has news from the start or never."""

    def __init__(self, bell: Doorbell, spin: float) -> None:
        self.spin_s, self.fileno = spin, bell.fileno


def test_a_waiting_stage_polls_for_a_while_and_then_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    real = select.poll

    class Poll:
        def __init__(self) -> None:
            self.poller = real()

        def register(self, *what: int) -> None:
            self.poller.register(*what)

        def poll(self, milliseconds: float) -> list[tuple[int, int]]:
            naps.append(milliseconds)
            return self.poller.poll(milliseconds)

    monkeypatch.setattr(select, "poll", Poll)
    with contextlib.closing(Doorbell()) as bell:
        spinning, sleeping = Asked(bell, 5e-3), Asked(bell, 0.0)
        assert not wait_any([spinning], 0.01, eager=True)
        assert naps.count(0) > 1 and naps[-1] == 10.0
        for channels, eager in (([spinning], False), ([spinning, sleeping], True)):
            naps.clear()
            assert not wait_any(channels, 0.01, eager)
            assert naps == [10.0]
        bell.ring()
        naps.clear()
        assert wait_any([spinning], 10.0, eager=True)
        assert naps == [0]
