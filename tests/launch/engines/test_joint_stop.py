"""Ranks that go through every step together stop after the same one."""

from __future__ import annotations

import random
import signal

import pytest
import torch.distributed as dist

from launch.engines.joint_stop import MARGIN, JointStop
from workers.coordination.rendezvous import Rendezvous
from workers.failure.interruption import Interruption


def ranks(count: int) -> tuple[list[JointStop], list[Interruption]]:
    store, interruptions = dist.HashStore(), [Interruption() for _ in range(count)]
    stops = [
        JointStop(Rendezvous(rank, count, rank, count, store), each)
        for rank, each in enumerate(interruptions)
    ]
    return stops, interruptions


@pytest.mark.parametrize("count", [2, 3, 5])
def test_all_stop_after_the_same_step_whenever_each_hears_of_the_signal(count: int) -> None:
    """None is ever more than a step ahead of another."""
    for seed in range(200):
        chance = random.Random(seed)
        stops, interruptions = ranks(count)
        steps, ended = [0] * count, [False] * count
        heard_at = [chance.randrange(6) for _ in range(count)]
        while not all(ended):
            allowed = [r for r in range(count) if not ended[r] and steps[r] <= min(steps)]
            assert allowed, "a rank that has stopped is waited for"
            rank = chance.choice(allowed)
            if steps[rank] >= heard_at[rank]:
                interruptions[rank].signum = signal.SIGINT
            if stops[rank].is_due(steps[rank]):
                ended[rank] = True
            else:
                steps[rank] += 1
        assert len(set(steps)) == 1, (seed, steps)
        assert steps[0] <= max(heard_at) + 1 + MARGIN


@pytest.mark.parametrize("count", [2, 3, 5])
def test_independent_ranks_stop_between_the_same_evaluations_whenever_each_hears_of_the_signal(
    count: int,
) -> None:
    """However far apart they are: none stops while another waits for it in an evaluation."""
    between = 5
    for seed in range(300):
        chance = random.Random(seed)
        stops, interruptions = ranks(count)
        hurry = [chance.choice((1, 1, 9)) for _ in range(count)]
        steps, met, ended, waiting = [0] * count, [0] * count, [False] * count, [False] * count
        for turn in range(20_000):
            if all(ended):
                break
            for rank in range(count):  # all hear within a heartbeat, wherever they are
                if turn >= 20 + 7 * rank:
                    interruptions[rank].signum = signal.SIGINT
            rank = chance.choices(range(count), hurry)[0]
            if ended[rank] or waiting[rank]:
                continue
            if stops[rank].is_due(steps[rank]):
                ended[rank] = True
            elif steps[rank] == (met[rank] + 1) * between:
                stops[rank]._rendezvous.publish(f"meets at/{rank}", steps[rank])
                due = stops[rank].peek_before_meeting(steps[rank])
                ended[rank] = bool(due)
                waiting[rank] = due is False
            else:
                steps[rank] += 1
            assert not (any(waiting) and any(ended)), (seed, "a rank waits for one that has stopped")
            if all(waiting):
                met, waiting = [one + 1 for one in met], [False] * count
        assert all(ended) and len(set(met)) == 1, seed


def test_a_rank_alone_stops_at_once() -> None:
    (stop,), (interruption,) = ranks(1)
    assert not stop.is_due(7)
    interruption.signum = signal.SIGTERM
    assert stop.is_due(7)
