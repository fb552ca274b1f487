from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dni_async.messages import TargetGradient
from dni_async.rules import DniRule
from dni_async.synthesis.predictor import Predictor
from tests.support.stages import CLASSES, WIDTH, synthesizer

H, Y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)


class Known(Predictor):
    """A predictor that predicts its step number and knows the version of every step it has seen."""

    def __init__(self) -> None:
        self.versions: dict[int, int] = {}
        self.taken: list[int] = []
        self.epochs = 0

    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        self.versions[step] = version
        return torch.full_like(h, float(step))

    def take(self, target: TargetGradient) -> int | None:
        self.taken.append(target.step)
        return self.versions.pop(target.step, None)

    def stats(self) -> dict[str, Any]:
        return {"taken": len(self.taken)}

    def new_epoch(self) -> None:
        self.epochs += 1


def target(step: int) -> TargetGradient:
    return TargetGradient(step, 0, H)


def staleness(rule: DniRule) -> tuple[float, int]:
    stats = rule.stats()
    return stats["staleness_mean"], stats["staleness_max"]


def test_the_diagram() -> None:
    """predict g7, g8 | take t7, predict g9 | take t8, predict g10: staleness 2."""
    rule = DniRule(Known())
    for step, arriving in ((7, None), (8, None), (9, 7), (10, 8)):
        if arriving is not None:
            rule.take_target(target(arriving), version=step)
        assert rule.gradient(step, step, H, Y).eq(step).all()
    assert staleness(rule) == (2.0, 2)


def test_staleness_is_the_version_now_minus_the_version_then() -> None:
    rule = DniRule(Known())
    for step in range(4):
        rule.gradient(step, 10 + step, H, Y)
    for step, now in ((0, 11), (1, 14), (2, 14), (3, 21)):
        rule.take_target(target(step), now)
    assert staleness(rule) == ((1 + 3 + 2 + 8) / 4, 8)


def test_without_targets_staleness_is_zero() -> None:
    assert staleness(DniRule(Known())) == (0.0, 0)


def test_a_target_that_is_not_known_any_more_does_not_count() -> None:
    rule = DniRule(Known())
    rule.gradient(0, 0, H, Y)
    rule.take_target(target(5), 100)
    assert staleness(rule) == (0.0, 0)
    rule.take_target(target(0), 3)
    assert staleness(rule) == (3.0, 3)


def test_a_new_epoch_is_passed_on_and_staleness_counts_through_the_run() -> None:
    predictor = Known()
    rule = DniRule(predictor)
    rule.gradient(0, 0, H, Y)
    rule.take_target(target(0), 3)
    rule.new_epoch()
    assert predictor.epochs == 1
    assert staleness(rule) == (3.0, 3)


def test_a_report_shows_the_predictors_numbers_too() -> None:
    rule = DniRule(Known())
    rule.take_target(target(0), 0)
    assert rule.stats() == {"staleness_mean": 0.0, "staleness_max": 0, "taken": 1}


def test_with_a_synthesizer_the_gradient_becomes_the_target_that_keeps_coming() -> None:
    rule = DniRule(synthesizer())
    h, y = torch.randn(6, WIDTH), torch.arange(6) % CLASSES
    wanted = torch.full_like(h, 0.01)
    for step in range(200):
        gradient = rule.gradient(step, step, h, y)
        rule.take_target(TargetGradient(step, 0, wanted), step + 1)
    torch.testing.assert_close(gradient, wanted, rtol=0.05, atol=0)
    assert rule.stats()["staleness_mean"] == 1.0
    assert rule.stats()["sg_updates"] == 200


def test_it_wants_targets_and_updates() -> None:
    rule = DniRule(Known())
    assert (rule.capabilities.needs_targets, rule.capabilities.updates) == (True, True)
