from __future__ import annotations

import math

import pytest
import torch

from dni_async.synthesis.agreement import Agreement


@pytest.mark.parametrize(
    ("prediction", "wanted", "error", "cosine"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0, 1.0),
        ([-3.0, -4.0], [3.0, 4.0], 2.0, -1.0),
        ([4.0, -3.0], [3.0, 4.0], math.sqrt(2), 0.0),
        ([0.0, 0.0], [3.0, 4.0], 1.0, 0.0),
        ([6.0, 8.0], [3.0, 4.0], 1.0, 1.0),
    ],
)
def test_agreement_is_relative_error_and_cosine(
    prediction: list[float], wanted: list[float], error: float, cosine: float
) -> None:
    agreement = Agreement()
    agreement.add(torch.tensor(prediction), torch.tensor(wanted))
    assert agreement.stats() == {
        "sg_relative_error": pytest.approx(error, abs=1e-12),
        "sg_cosine": pytest.approx(cosine, abs=1e-12),
    }


def test_agreement_is_of_all_targets_together() -> None:
    agreement = Agreement()
    agreement.add(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0]))
    agreement.add(torch.tensor([-3.0, -4.0]), torch.tensor([3.0, 4.0]))
    assert agreement.stats() == {
        "sg_relative_error": pytest.approx(math.sqrt(10**2 / (5**2 + 5**2))),
        "sg_cosine": pytest.approx(0.0),
    }


def test_a_target_that_is_nearly_zero_does_not_drown_the_others() -> None:
    agreement = Agreement()
    agreement.add(torch.tensor([3.0, 3.0]), torch.tensor([3.0, 4.0]))
    agreement.add(torch.tensor([0.1, 0.0]), torch.tensor([1e-30, 0.0]))
    assert agreement.stats()["sg_relative_error"] == pytest.approx(math.sqrt((1 + 0.01) / 25))


@pytest.mark.parametrize("prediction", [0.0, 1.0])
def test_where_all_targets_are_zero_there_is_no_agreement(prediction: float) -> None:
    agreement = Agreement()
    agreement.add(torch.tensor([prediction]), torch.zeros(1))
    assert agreement.stats() == {"sg_relative_error": None, "sg_cosine": None}


def test_from_the_means_of_an_older_checkpoint_the_agreement_starts_over() -> None:
    agreement = Agreement()
    agreement.add(torch.ones(2), torch.ones(2))
    agreement.load_state_dict({"error": 7.0, "cosine": 3.0, "count": 8})
    assert agreement.stats() == {"sg_relative_error": None, "sg_cosine": None}
    agreement.add(torch.ones(2), torch.ones(2))
    assert agreement.stats() == {"sg_relative_error": 0.0, "sg_cosine": pytest.approx(1.0)}


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_agreement_that_is_not_finite_is_none_in_a_report(broken: float) -> None:
    agreement = Agreement()
    agreement.add(torch.tensor([broken]), torch.tensor([1.0]))
    assert agreement.stats() == {"sg_relative_error": None, "sg_cosine": None}
