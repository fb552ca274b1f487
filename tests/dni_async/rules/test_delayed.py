from __future__ import annotations

import pytest
import torch

from dni_async.errors import StageError
from dni_async.messages import Activation, Marker, MarkerKind, TargetGradient
from dni_async.rules import DelayedRule
from dni_async.stage.stage import Stage
from tests.support.stages import WIDTH, batches, clone_state, pipeline


def first_stage(capacity: int = 3) -> Stage:
    return pipeline(cut=(1,), rule=lambda: DelayedRule(capacity))[0]


def forward(stage: Stage, step: int) -> None:
    [message] = batches([4])
    assert isinstance(message, Activation)
    message.step = step
    assert len(list(stage.on(message))) == 1


def answer(stage: Stage, step: int) -> None:
    assert list(stage.on(TargetGradient(step, 0, torch.ones(4, WIDTH)))) == []


def test_the_diagram() -> None:
    """forward 7, 8, 9 | target 7 | forward 10 | target 8: staleness 0, then 1."""
    stage = first_stage()
    rule = stage.rule
    seen = []
    for move, step in (("f", 7), ("f", 8), ("f", 9), ("t", 7), ("f", 10), ("t", 8)):
        (forward if move == "f" else answer)(stage, step)
        seen.append((sorted(rule.stash._waiting), stage.version, stage.has_room))
    assert seen == [
        ([7], 0, True),
        ([7, 8], 0, True),
        ([7, 8, 9], 0, False),
        ([8, 9], 1, True),
        ([8, 9, 10], 1, False),
        ([9, 10], 2, True),
    ]
    assert rule.stats()["staleness_mean"] == 0.5
    assert rule.stats()["staleness_max"] == 1


def test_the_gradient_is_the_target() -> None:
    rule = DelayedRule(1)
    assert rule.gradient(0, 0, torch.zeros(2, 3), torch.zeros(2)) is None
    assert (rule.capabilities.needs_targets, rule.capabilities.updates) == (True, True)


def test_nothing_moves_before_the_target() -> None:
    stage = first_stage()
    before = clone_state(stage.layers)
    forward(stage, 0)
    assert all(torch.equal(before[name], p) for name, p in stage.layers.named_parameters())
    assert (stage.steps, stage.samples, stage.version) == (1, 4, 0)
    answer(stage, 0)
    assert not any(torch.equal(before[name], p) for name, p in stage.layers[0][0].named_parameters("0.0"))


def test_a_report_shows_staleness_and_the_most_bytes_held() -> None:
    stage = first_stage()
    forward(stage, 0)
    held = stage.rule.stash.held_bytes()
    answer(stage, 0)
    assert held > 0
    assert stage.rule.stats() == {"staleness_mean": 0.0, "staleness_max": 0, "held_bytes": held}


@pytest.mark.parametrize(
    ("step", "text"),
    [(1, "the target of step 1 came, and that of step 0 is missing"), (5, "the target of step 5 came")],
)
def test_a_target_that_is_not_the_next_one_is_an_error(step: int, text: str) -> None:
    stage = first_stage()
    for batch in (0, 1):
        forward(stage, batch)
    with pytest.raises(StageError, match=text):
        answer(stage, step)


@pytest.mark.parametrize("kind", list(MarkerKind))
def test_a_marker_that_comes_back_before_a_target_is_an_error(kind: MarkerKind) -> None:
    stage = first_stage()
    forward(stage, 0)
    forward(stage, 1)
    answer(stage, 0)
    list(stage.on(Marker(MarkerKind.REPORT, 1, 0, returning=True)))  # batch 1 went behind this one
    with pytest.raises(StageError, match="the target of step 1 never came"):
        list(stage.on(Marker(kind, 2, 0, returning=True)))
