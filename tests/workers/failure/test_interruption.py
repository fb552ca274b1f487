"""What a signal does before training, in training, and again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import torch.distributed as dist

from workers.coordination.rendezvous import Rendezvous
from workers.failure import interruption as module
from workers.failure.interruption import SAME_SIGNAL_S, Interruption
from workers.failure.signals import DEADLINE_SIGNAL, Stopped

STOPPING = (signal.SIGINT, signal.SIGTERM, DEADLINE_SIGNAL)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Interruption]]:
    """Interruptions whose handlers are those of this process, which outlives its parent."""
    before = [signal.getsignal(number) for number in STOPPING]
    timer = signal.getitimer(signal.ITIMER_REAL)
    monkeypatch.setattr(module, "exit_with_parent", lambda signum: None)

    def make() -> Interruption:
        made = Interruption()
        made.install_handlers()
        return made

    yield make
    signal.setitimer(signal.ITIMER_REAL, *timer)
    for number, handler in zip(STOPPING, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only element."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def rendezvous_of(ranks: int) -> list[Rendezvous]:
    store = dist.HashStore()
    return [Rendezvous(rank, ranks, rank, ranks, store) for rank in range(ranks)]


def test_a_signal_before_training_ends_the_process(make: Callable[[], Interruption]) -> None:
    interruption = make()
    with pytest.raises(Stopped, match="SIGTERM"):
        signal.raise_signal(signal.SIGTERM)
    assert interruption.signum is None


def test_the_first_signal_in_training_is_only_noted_and_the_second_ends_the_process(
    make: Callable[[], Interruption], clock: list[float]
) -> None:
    interruption = make()
    interruption.begin_training()
    signal.raise_signal(signal.SIGINT)
    assert interruption.name == "SIGINT"
    clock[0] += 1.1 * SAME_SIGNAL_S
    with pytest.raises(Stopped, match="stopped by SIGINT"):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_comes_twice_at_once_counts_once(
    make: Callable[[], Interruption], clock: list[float]
) -> None:
    interruption = make()
    interruption.begin_training()
    signal.raise_signal(signal.SIGTERM)
    clock[0] += 0.9 * SAME_SIGNAL_S
    signal.raise_signal(signal.SIGTERM)
    assert interruption.name == "SIGTERM"


def test_a_process_that_does_not_end_in_time_is_ended(
    make: Callable[[], Interruption], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERRUPT_TIMEOUT_S", 0.05)
    make().begin_training()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(Stopped, match="stopped by SIGINT"):
        time.sleep(10)


def test_a_rank_whose_launcher_has_died_ends_at_once(
    make: Callable[[], Interruption], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    make().begin_training()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)


def test_ranks_hear_of_a_signal_that_came_to_another(make: Callable[[], Interruption]) -> None:
    first, second = rendezvous_of(2)
    heard = make()
    heard.begin_training()
    heard.share(second)
    signal.raise_signal(signal.SIGINT)
    heard.share(second)
    not_yet, training = make(), make()
    not_yet.share(first)
    training.begin_training()
    training.share(first)
    assert (not_yet.signum, training.signum) == (None, signal.SIGINT)


def test_a_signal_that_comes_while_that_of_another_rank_is_read_is_the_same_one(
    make: Callable[[], Interruption], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of a loaded machine may take long to answer."""
    first, _ = rendezvous_of(2)
    interruption = make()
    interruption.begin_training()

    def peek(job: Rendezvous, key: str) -> int:
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr("workers.failure.interruption.SAME_SIGNAL_S", 0.0)
        return signal.SIGINT

    monkeypatch.setattr(Rendezvous, "peek", peek)
    interruption.share(first)
    assert interruption.name == "SIGINT"


def test_a_signal_because_another_rank_has_failed_ends_the_process_at_once(
    make: Callable[[], Interruption],
) -> None:
    first, second = rendezvous_of(2)
    second.publish("failure", ["stage 1: no", 1])
    interruption = make()
    interruption.begin_training()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"):
        interruption.share(first)
        time.sleep(10)


def test_a_rank_that_writes_its_results_goes_on_when_another_has_failed(
    make: Callable[[], Interruption],
) -> None:
    first, second = rendezvous_of(2)
    second.publish("failure", ["stage 1: no", 1])
    interruption = make()
    interruption.begin_training()
    interruption.end_training()
    signal.raise_signal(signal.SIGTERM)
    interruption.share(first)
    assert interruption.name == "SIGTERM"
