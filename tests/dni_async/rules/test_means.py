from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from dni_async.rules.means import BatchMeans


def valid(y: Tensor) -> Tensor:
    return y != -100


def test_the_diagram() -> None:
    """Batch 7 has four labels that count, batch 8 one of two."""
    means = BatchMeans(valid)
    means.add_loss(0.5, torch.tensor([2, 0, 1, 1]))
    means.add_scores(torch.ones(4))
    assert (means.samples, means.labels, means.scores) == (4, 4, 4)
    means.add_loss(3.0, torch.tensor([2, -100]))
    means.add_scores(torch.zeros(1))
    assert (means.samples, means.labels, means.scores) == (6, 5, 5)
    assert (means.loss, means.score) == (pytest.approx((4 * 0.5 + 3) / 5), pytest.approx(4 / 5))


def test_where_all_labels_count_a_loss_is_weighted_by_its_samples() -> None:
    means = BatchMeans()
    means.add_loss(1.0, torch.zeros(3, 7))
    means.add_loss(2.0, torch.zeros(1, 7))
    assert means.loss == pytest.approx(5 / 4)


def test_without_a_label_that_counts_there_is_no_mean() -> None:
    means = BatchMeans(valid)
    means.add_loss(0.0, torch.full((4,), -100))
    means.add_scores(torch.zeros(0))
    assert (means.samples, means.loss, means.score) == (4, None, None)


def test_a_batch_without_a_label_that_counts_does_not_make_the_mean_nan() -> None:
    """Mean losses of torch are NaN there."""
    means = BatchMeans(valid)
    for loss, y in ((3.0, [2, -100]), (float("nan"), [-100, -100])):
        means.add_loss(loss, torch.tensor(y))
    assert (means.samples, means.labels, means.loss) == (4, 1, 3.0)


def test_sums_come_back_from_a_state() -> None:
    means, other = BatchMeans(valid), BatchMeans(valid)
    means.add_loss(3.0, torch.tensor([2, -100]))
    means.add_scores(torch.ones(1))
    other.load_state_dict(json.loads(json.dumps(means.state_dict())))
    assert other.state_dict() == means.state_dict()
    assert (other.loss, other.score, other.samples) == (3.0, 1.0, 2)


def test_sums_of_an_older_version_are_by_samples() -> None:
    means = BatchMeans(valid)
    means.load_state_dict({"loss": 6.0, "samples": 4})
    assert means.loss == 1.5
