from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.networks import DNINetwork, FeatureHeadSG, LeastSquaresSG, LinearSG
from dni_async.networks.settings import SGConfig
from dni_async.rules.context import RuleContext
from dni_async.rules.dni import MOST_COLUMNS, CdniRule, DniRule
from dni_async.synthesis.predictor import Predictor
from dni_async.synthesis.synthesizer import Synthesizer
from tests.support.stages import CLASSES, WIDTH, one_hot, synthesizer

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


def test_rule_dni_needs_targets_and_updates() -> None:
    rule = DniRule(Known())
    assert (rule.capabilities.needs_targets, rule.capabilities.updates) == (True, True)


def context(**settings: Any) -> RuleContext:
    settings = {"condition": one_hot, "label_size": CLASSES, "classes": CLASSES} | settings
    return RuleContext(
        shape=(WIDTH,), output_shape=(CLASSES,), loss=F.cross_entropy, metric=F.cross_entropy, **settings
    )


@pytest.mark.parametrize(
    ("rule", "settings", "network"),
    [
        (CdniRule, {}, FeatureHeadSG),
        (CdniRule, {"batch_normalised": True}, LinearSG),
        (CdniRule, {"batch_normalised": True, "sg": SGConfig(kind="head")}, FeatureHeadSG),
        (CdniRule, {"sg": SGConfig(kind="linear")}, LinearSG),
        (CdniRule, {"classes": None}, LeastSquaresSG),
        (
            CdniRule,
            {"classes": CLASSES + 1},
            LinearSG,
        ),  # columns are not classes
        (DniRule, {}, LinearSG),
    ],
)
def test_the_default_network_depends_on_labels_and_normalisation(
    rule: type[DniRule], settings: dict[str, Any], network: type[DNINetwork]
) -> None:
    predictor = rule.build(context(**settings)).predictor
    assert isinstance(predictor, Synthesizer)
    assert type(predictor.network) is network


def indices(y: Tensor) -> Tensor:
    return y.masked_fill(y == 0, -1)


def test_a_head_remembers_the_indices_of_classes_and_other_networks_their_columns() -> None:
    y = torch.arange(4) % CLASSES
    for kind, wanted in (("head", indices(y)), ("linear", one_hot(y))):
        rule = CdniRule.build(context(class_indices=indices, sg=SGConfig(kind=kind)))
        assert isinstance(rule.predictor, Synthesizer)
        rule.gradient(0, 0, torch.randn(4, WIDTH), y)
        waiting = rule.predictor.pending.pop(0)
        assert waiting is not None and waiting.labels is not None
        assert torch.equal(waiting.labels, wanted) and waiting.labels.dtype == wanted.dtype


def test_a_vocabulary_that_is_too_large_for_one_hot_labels_is_refused_except_by_heads() -> None:
    large: dict[str, Any] = {"label_size": MOST_COLUMNS + 1, "classes": MOST_COLUMNS + 1}
    CdniRule.build(context(class_indices=indices, **large))
    with pytest.raises(UserError, match=r"SG network linear sees labels of 16385 classes .* --sg.kind head"):
        CdniRule.build(context(class_indices=indices, sg=SGConfig(kind="linear"), **large))
    DniRule.build(context(class_indices=indices, **large))


def test_the_heads_learning_rate_follows_the_schedule_of_the_stage_and_the_linear_networks_does_not() -> None:
    for normalised, rate in ((False, 3e-3 / 2), (True, 1e-3)):
        rule = CdniRule.build(context(batch_normalised=normalised, schedule=lambda version: 0.5))
        rule.gradient(0, 0, torch.randn(4, WIDTH), torch.arange(4) % CLASSES)
        assert rule.optimizer is not None
        assert rule.optimizer.param_groups[0]["lr"] == rate
