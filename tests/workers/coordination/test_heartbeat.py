"""What ranks know of each other. The clock of each shows other hours."""

from __future__ import annotations

import threading

import pytest
import torch.distributed as dist

from tests.support.channels import TEST_TIMEOUT_S
from tests.support.clocks import Clock
from workers.coordination import heartbeat
from workers.coordination.heartbeat import BEAT_INTERVAL_S, SILENCE_TIMEOUT_S, Heartbeat
from workers.coordination.rendezvous import Rendezvous


class Ranks:
    """Three ranks whose time passes when the test says so."""

    def __init__(self, *silent: int) -> None:
        store = dist.HashStore()
        self.clocks = [Clock() for _ in range(3)]
        self.activities = [f"stage {rank} (rank {rank}), at step 1, computing" for rank in range(3)]
        self.hearts = []
        for rank, clock in enumerate(self.clocks):
            clock.now = 1000.0 * rank
            job = Rendezvous(rank, 3, rank, 3, store)
            self.hearts.append(Heartbeat(job, lambda rank=rank: self.activities[rank], clock=clock))
        self.live(0, *silent)
        self.hearts[0].beat()  # it hears of the others

    def live(self, seconds: float, *silent: int) -> None:
        """So much time passes; all but some beat, once a BEAT_INTERVAL_S."""
        for _ in range(max(1, round(seconds / BEAT_INTERVAL_S))):
            for rank, (clock, heart) in enumerate(zip(self.clocks, self.hearts, strict=True)):
                clock.now += min(seconds, BEAT_INTERVAL_S)
                if rank not in silent:
                    heart.beat()

    def describe(self, *peers: int) -> str:
        """What rank 0 knows."""
        return self.hearts[0].describe(peers)


def test_a_rank_whose_heartbeat_stops_is_named_with_its_last_step() -> None:
    ranks = Ranks()
    ranks.live(61, 2)
    assert ranks.describe(1) == "no sign of life for 61 s from stage 2 (rank 2), at step 1, computing"


def test_living_ranks_that_keep_others_waiting_are_named_with_their_activity() -> None:
    ranks = Ranks()
    ranks.live(20)
    ranks.activities[1] = "stage 1 (rank 1), at step 2, computing"
    ranks.live(30 + BEAT_INTERVAL_S)
    assert ranks.describe(1) == (
        "stage 1 (rank 1), at step 2, computing, lives and has done so for 30 s; "
        "raise --timeout if that may take so long"
    )
    both = ranks.describe()
    assert "at step 2, computing, lives and has done so for 30 s and stage 2 (rank 2), at step 1" in both


def test_a_short_pause_is_not_taken_for_death() -> None:
    ranks = Ranks()
    ranks.live(SILENCE_TIMEOUT_S - BEAT_INTERVAL_S, 1, 2)
    assert "no sign of life" not in ranks.describe()
    ranks.live(2 * BEAT_INTERVAL_S, 1, 2)
    assert "no sign of life" in ranks.describe()


def test_a_rank_that_was_stopped_itself_reports_no_other_rank_as_dead() -> None:
    ranks = Ranks()
    ranks.live(100, 0)
    assert "no sign of life" not in ranks.describe()
    ranks.live(BEAT_INTERVAL_S)
    assert "no sign of life" not in ranks.describe()


def test_a_rank_that_never_came_is_named() -> None:
    assert Ranks(2).describe(1) == "no sign of life from rank 2 so far"


def test_a_thread_beats_until_the_store_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    store, beats = dist.HashStore(), threading.Event()
    first, second = (
        Heartbeat(Rendezvous(rank, 2, rank, 2, store), lambda: "busy", beats.set) for rank in range(2)
    )
    thread = started(first)
    assert beats.wait(TEST_TIMEOUT_S)
    second.beat()
    assert (
        second.describe() == "busy, lives and has done so for 0 s; raise --timeout if that may take so long"
    )
    lose_the_store(monkeypatch, thread, first)


def started(heart: Heartbeat) -> threading.Thread:
    """The thread in which it beats."""
    before = set(threading.enumerate())
    heart.start()
    (thread,) = set(threading.enumerate()) - before
    return thread


def lose_the_store(monkeypatch: pytest.MonkeyPatch, thread: threading.Thread, heart: Heartbeat) -> None:
    """End the thread, as a store that is gone does: one in C++ at the end of the process would abort it."""

    def beat() -> None:
        raise LOST

    monkeypatch.setattr(heartbeat, "is_gone", lambda: True)
    monkeypatch.setattr(heart, "beat", beat)
    thread.join(TEST_TIMEOUT_S)
    assert not thread.is_alive()


MOST = heartbeat._MOST_FAILURES
SLOW, LOST = dist.DistStoreError("timeout"), dist.DistNetworkError("broken pipe")


@pytest.mark.parametrize(
    ("failures", "error", "gone", "ends"),
    [
        (MOST - 1, SLOW, False, False),
        (MOST, SLOW, False, True),
        (1, LOST, True, True),
        (MOST + 1, LOST, None, False),  # its host is out of reach
        (MOST + 1, LOST, False, False),
    ],
)
def test_the_thread_survives_a_slow_store_and_a_cut_link_and_ends_with_a_store_that_is_gone(
    failures: int, error: Exception, gone: bool | None, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_INTERVAL_S", 0.001)
    monkeypatch.setattr(heartbeat, "is_gone", lambda: gone)
    heart = Heartbeat(Rendezvous(0, 2, 0, 2, dist.HashStore()), lambda: "busy")
    begun, enough, begins = [0], threading.Event(), threading.Event()

    def beat() -> None:
        assert begins.wait(TEST_TIMEOUT_S)
        begun[0] += 1
        if begun[0] == failures + 3:
            enough.set()
        if begun[0] <= failures:
            raise error

    monkeypatch.setattr(heart, "beat", beat)
    thread = started(heart)
    begins.set()
    if ends:
        thread.join(TEST_TIMEOUT_S)
        assert not thread.is_alive()
        assert begun[0] == failures
    else:
        assert enough.wait(TEST_TIMEOUT_S)
        lose_the_store(monkeypatch, thread, heart)
