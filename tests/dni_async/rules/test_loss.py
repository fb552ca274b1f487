from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.rules import LossRule
from dni_async.rules.loss import EXTRA
from dni_async.rules.means import metric_scores
from tests.support.stages import accuracy, loss_rule


def batch(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 5, generator=generator), torch.arange(rows) % 5


def test_the_gradient_is_autograds_to_the_bit() -> None:
    h, y = batch(7)
    leaf = h.clone().requires_grad_()
    F.cross_entropy(leaf, y).backward()
    gradient = loss_rule().gradient(0, 0, h, y)
    assert leaf.grad is not None
    assert torch.equal(gradient, leaf.grad)
    assert not gradient.requires_grad


def test_the_rule_leaves_h_unchanged() -> None:
    h, y = batch(7)
    loss_rule().gradient(0, 0, h, y)
    assert not h.requires_grad
    assert h.grad is None


def test_the_training_loss_is_the_mean_over_samples_not_over_batches() -> None:
    rule, (h, y) = loss_rule(), batch(47)
    rule.gradient(0, 0, h[:30], y[:30])
    rule.gradient(1, 0, h[30:], y[30:])
    assert rule.result()["loss"] == pytest.approx(float(F.cross_entropy(h, y)))


def test_evaluation_is_the_mean_over_samples_not_over_batches() -> None:
    rule, (h, y) = loss_rule(), batch(47)
    rule.evaluate(h[:40], y[:40])
    rule.evaluate(h[40:], y[40:])
    result = rule.result()
    assert result["test_loss"] == pytest.approx(float(F.cross_entropy(h, y)))
    assert result["test_accuracy"] == pytest.approx(float(accuracy(h, y).mean()))
    assert result["tested"] == 47
    assert result["loss"] is None


def test_without_samples_there_is_no_mean() -> None:
    assert loss_rule().result() == {
        "loss": None,
        "test_loss": None,
        "test_accuracy": None,
        "trained": 0,
        "tested": 0,
    }


def test_a_new_epoch_starts_all_means_over() -> None:
    rule = loss_rule()
    rule.gradient(0, 0, *batch(4))
    rule.evaluate(*batch(4))
    rule.new_epoch()
    assert rule.result() == loss_rule().result()


def test_a_new_evaluation_starts_the_test_means_over_and_keeps_the_training_loss() -> None:
    rule, (h, y) = loss_rule(), batch(47)
    rule.gradient(0, 0, h[:30], y[:30])
    rule.evaluate(*batch(4, seed=1))
    rule.reset_evaluation()
    assert (rule.result()["test_loss"], rule.result()["test_accuracy"], rule.result()["tested"]) == (
        None,
        None,
        0,
    )
    rule.gradient(1, 0, h[30:], y[30:])
    rule.evaluate(h, y)
    assert rule.result()["loss"] == pytest.approx(float(F.cross_entropy(h, y)))
    assert rule.result()["test_loss"] == pytest.approx(float(F.cross_entropy(h, y)))
    assert rule.result()["tested"] == 47


@pytest.mark.parametrize(("value", "shown"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_a_loss_that_is_not_finite_is_the_users_to_mend(value: float, shown: str) -> None:
    rule, (h, y) = LossRule(lambda output, y: output.sum() * value, accuracy), batch(4)
    with pytest.raises(UserError, match=f"the loss is {shown}; lower --lr") as error:
        rule.gradient(3, 3, h.abs() + 1, y)
    assert "\n" not in str(error.value)
    assert rule.result()["loss"] is None


def test_nan_activations_are_detected() -> None:
    h, y = batch(4)
    h[2, 1] = float("nan")
    with pytest.raises(UserError, match="the loss is nan"):
        loss_rule().gradient(0, 0, h, y)


def test_a_regression_loss_works_as_well() -> None:
    rule = LossRule(F.mse_loss, lambda output, y: -(output - y).square().mean(1))
    h, y = torch.randn(6, 3), torch.randn(6, 3)
    torch.testing.assert_close(rule.gradient(0, 0, h, y), 2 * (h - y) / 18)


def test_further_metrics_are_summed_over_the_samples_of_an_evaluation() -> None:
    def mean_of_batch(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return accuracy(output, y).mean()

    metrics = {
        "scores": accuracy,
        "mean": mean_of_batch,
        "float": lambda output, y: float(mean_of_batch(output, y)),
    }
    rule, (h, y) = LossRule(F.cross_entropy, accuracy, metrics=metrics), batch(47)
    rule.evaluate(h[:40], y[:40])
    restored = LossRule(F.cross_entropy, accuracy, metrics=metrics)
    restored.restore_counters(rule.counters())
    for each in (rule, restored):
        each.evaluate(h[40:], y[40:])
        for total, count in each.result()[EXTRA].values():
            assert (total, count) == (pytest.approx(float(accuracy(h, y).sum())), 47)
        each.reset_evaluation()
        assert each.result()[EXTRA] == {name: [0.0, 0] for name in metrics}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (torch.ones(7, 10), r"returns shape \(7, 10\) for a batch of 7 samples; return a score for each"),
        (torch.ones(10), r"returns shape \(10,\) for"),
        (None, "returns None for"),
        ([1.0] * 7, r"returns \[1.0, 1.0"),
    ],
)
def test_a_further_metric_of_another_shape_is_refused(result: Any, words: str) -> None:
    rule = LossRule(F.cross_entropy, accuracy, metrics={"m": lambda output, y: result})
    with pytest.raises(UserError, match=f"^metric m {words}") as error:
        rule.evaluate(*batch(7))
    assert "\n" not in str(error.value)


def test_a_further_metric_may_return_a_score_for_each_label() -> None:
    targets = torch.zeros(3, 4)
    for scores in (torch.ones(3), torch.ones(12), torch.ones(5)):
        assert metric_scores("m", scores, targets, labels=5) is scores


def test_the_rule_needs_no_targets_and_ignores_them() -> None:
    rule = loss_rule()
    assert (rule.capabilities.needs_targets, rule.capabilities.updates) == (False, True)
    rule.take_target(TargetGradient(0, 0, torch.zeros(2, 5)), 0)
    assert rule.stats() == {}
