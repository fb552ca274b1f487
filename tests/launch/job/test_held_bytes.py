"""What a stage holds for other batches: under cdni set counts bound it, whatever the number of stages."""

from __future__ import annotations

from functools import cache

import pytest

from launch.config.train import TrainConfig
from tasks.vision.digits import DigitsFcn
from tests.support.tiny_task import simulated

WIDTH, BATCH, IN_FLIGHT = 64, 64, 4
H = BATCH * WIDTH * 4
"""Bytes of an activation between hidden layers."""
LABELS = BATCH * 10 * 4
LEDGER, WINDOW = 2 * IN_FLIGHT + 2, 16
SLOTS = IN_FLIGHT * (2 * H + BATCH * 8)
"""What a stage's ways out take: activations with their y downstream, targets upstream."""


@cache
def held(rule: str, stages: int) -> list[int]:
    """The most bytes in each stage's pending and replay window, or stash, when all run far ahead."""
    task = DigitsFcn(depth=stages, width=WIDTH)
    cut = ",".join(map(str, range(1, stages)))
    config = TrainConfig.of(rule=rule, cut=cut, epochs=2, batch_size=BATCH, in_flight=IN_FLIGHT)
    parts, _ = simulated(task, config, stages)
    return [stage.stats()["held_bytes"] for stage in parts[:-1]]


@pytest.mark.parametrize("stages", [4, 8])
def test_set_counts_bound_what_cdni_holds(stages: int) -> None:
    replay = WINDOW * (2 * H + LABELS)
    assert all(replay < most <= replay + LEDGER * (H + LABELS) for most in held("cdni", stages))


def test_more_stages_do_not_make_cdni_hold_more() -> None:
    assert max(held("cdni", 8)) == max(held("cdni", 4))


def test_more_stages_make_the_stash_of_the_first_grow() -> None:
    assert held("delayed", 8)[0] > 1.9 * held("delayed", 4)[0]


@pytest.mark.parametrize("stages", [4, 8])
def test_every_stage_of_cdni_holds_less_than_the_first_stash_of_delayed(stages: int) -> None:
    """The first is the largest. That of the stage before the loss holds two batches, less than cdni's
    replay window."""
    delayed = held("delayed", stages)
    assert max(held("cdni", stages)) + SLOTS < delayed[0] == max(delayed)
    assert min(delayed) < min(held("cdni", stages))
