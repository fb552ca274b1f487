"""Only what is good of a synthetic gradient through time is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dni_async.messages import TargetGradient
from dni_async.recurrent.bootstrap import dni_through_time
from dni_async.recurrent.calibration import CalibratedPredictor
from dni_async.state.state_dict import copied

PARTS = torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, -2.0]])
"""What rows have of their own: in sum over the rows nothing."""


class Says:
    """Predicts what it is told to, and keeps what it is taught."""

    def __init__(self, prediction: Tensor) -> None:
        self.prediction = prediction
        self.taught: list[Tensor] = []
        self.given_up: list[int] = []

    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        return self.prediction

    def take(self, target: TargetGradient) -> int:
        self.taught.append(target.grad)
        return target.version

    def discard(self, step: int) -> None:
        self.given_up.append(step)

    def stats(self) -> dict[str, Any]:
        return {"sg_cosine": 0.5}

    def new_epoch(self) -> None:
        self.given_up = []


def taught(said: Tensor, target: Tensor, times: int = 3) -> CalibratedPredictor:
    """Has met the same target a few times."""
    predictor = CalibratedPredictor(Says(said))  # type: ignore[arg-type]
    for step in range(times):
        predictor.predict(step, step, PARTS, PARTS)
        assert predictor.take(TargetGradient(step, step, target)) == step
    return predictor


def test_the_mean_over_rows_is_subtracted_from_predictions() -> None:
    predictor = taught(PARTS + 7, PARTS - 3)
    torch.testing.assert_close(predictor.predict(9, 9, PARTS, PARTS), PARTS)


@pytest.mark.parametrize(
    ("target", "share"),
    [(PARTS, 1.0), (0.25 * PARTS, 0.25), (3 * PARTS, 1.0), (-PARTS, 0.0), (torch.zeros(3, 2), 0.0)],
)
def test_predictions_are_shrunk_by_the_best_recent_factor(target: Tensor, share: float) -> None:
    predictor = taught(PARTS, target)
    assert predictor.stats() == {"sg_cosine": 0.5, "sg_share": pytest.approx(share)}
    torch.testing.assert_close(predictor.predict(9, 9, PARTS, PARTS), share * PARTS)


def test_the_factor_follows_slowly() -> None:
    predictor = taught(PARTS, PARTS, 50)
    predictor.take(TargetGradient(99, 99, PARTS))  # never predicted: says nothing of the share
    assert predictor.stats()["sg_share"] == pytest.approx(1.0)
    predictor.predict(100, 100, PARTS, PARTS)
    predictor.take(TargetGradient(100, 100, -PARTS))
    assert 0.9 < predictor.stats()["sg_share"] < 1


def test_the_predictor_inside_learns_from_the_targets_as_they_are() -> None:
    inner = Says(PARTS)
    predictor = CalibratedPredictor(inner)  # type: ignore[arg-type]
    predictor.predict(0, 0, PARTS, PARTS)
    assert predictor.take(TargetGradient(0, 0, PARTS + 5)) == 0
    predictor.discard(3)
    assert torch.equal(inner.taught[0], PARTS + 5) and inner.given_up == [3]
    predictor.new_epoch()
    assert inner.given_up == [] and predictor.stats()["sg_share"] == pytest.approx(1.0)


def test_the_factor_grows_while_the_network_learns() -> None:
    predictor, given = dni_through_time()(PARTS), []
    for step in range(20):
        given.append(predictor.predict(step, step, PARTS, PARTS))
        predictor.take(TargetGradient(step, step, PARTS))
    assert not given[0].any()
    assert torch.nn.functional.cosine_similarity(given[-1].flatten(), PARTS.flatten(), dim=0) > 0.9


def test_a_calibration_loaded_from_a_state_continues_without_pending_predictions() -> None:
    predictor, other = (dni_through_time()(PARTS) for _ in range(2))
    for one in (predictor, other):
        one.predict(0, 0, PARTS, PARTS)
    predictor.take(TargetGradient(0, 0, PARTS))
    other.restore_counters(predictor.counters())
    assert other.stats()["sg_updates"] == predictor.stats()["sg_updates"] == 1
    assert copied(other.state_dict())["waiting"] == []


def test_a_batch_of_one_row_gets_no_prediction() -> None:
    predictor = CalibratedPredictor(Says(PARTS[:1]))  # type: ignore[arg-type]
    assert torch.equal(predictor.predict(0, 0, PARTS[:1], PARTS[:1]), torch.zeros(1, 2))


def test_predictions_whose_targets_never_come_are_forgotten() -> None:
    predictor = CalibratedPredictor(Says(PARTS))  # type: ignore[arg-type]
    for step in range(5):
        predictor.predict(step, step, PARTS, PARTS)
    predictor.take(TargetGradient(3, 3, PARTS))
    inner = predictor.predictor
    inner.state_dict = dict  # type: ignore[method-assign]
    kept = copied(predictor.state_dict())
    assert [entry["step"] for entry in kept["waiting"]] == [4]
