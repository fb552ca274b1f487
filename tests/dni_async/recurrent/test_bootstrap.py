"""What a window ends in, and what it is good for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni_async.networks import LeastSquaresSG, LinearSG
from dni_async.networks.settings import SGConfig
from dni_async.recurrent.bootstrap import LARGE, dni_through_time, permuted
from dni_async.recurrent.calibration import CalibratedPredictor
from tests.support.learning import lesson
from tests.support.through_time import RecordingPredictor

QUICK = SGConfig(kind="linear", lr=3e-2)
"""Gradient descent, fast enough for a lesson."""


class ByRow(RecordingPredictor):
    """Predicts the state itself."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        return h


def test_dni_learns_what_truncated_bptt_cannot_see_and_a_permuted_sg_does_not() -> None:
    assert lesson(None)[0] == pytest.approx(0.1)
    for sg in (None, QUICK):
        assert lesson(dni_through_time(sg))[0] == pytest.approx(1.0, abs=0.2)
        assert abs(lesson(permuted(dni_through_time(sg)))[0]) < 0.4


@pytest.mark.parametrize(
    ("width", "asked", "kind"),
    [
        (LARGE, {}, LeastSquaresSG),
        (LARGE + 1, {}, LinearSG),
        (LARGE + 1, {"kind": "least-squares"}, LeastSquaresSG),
        (8, {"kind": "linear"}, LinearSG),
    ],
)
def test_large_states_get_a_network_that_costs_less(
    width: int, asked: dict[str, Any], kind: type[nn.Module]
) -> None:
    made = dni_through_time(SGConfig(**asked))(torch.zeros(1, width))
    assert isinstance(made, CalibratedPredictor)
    network = made.predictor.network  # type: ignore[attr-defined]
    assert type(network) is kind and getattr(network, "squeeze", None) is None


def test_no_row_is_permuted_to_its_own_place() -> None:
    made = permuted(lambda state: ByRow())(torch.zeros(3, 1))
    own = torch.arange(3.0).unsqueeze(1)
    for step in range(20):
        shuffled = made.predict(step, 0, own, own)
        assert sorted(shuffled.flatten().tolist()) == [0.0, 1.0, 2.0] and not (shuffled == own).any()
    assert made.predict(20, 0, own[2:], own[2:]).tolist() == [[0.0]]
