import pytest

from dni_async.rules.loss import EXTRA
from launch.engines.joint_result import together


def test_means_of_several_ranks_are_weighted_by_their_samples():
    one = {"loss": 1.0, "trained": 30, "test_loss": 4.0, "test_accuracy": 0.5, "tested": 10}
    other = {"loss": 3.0, "trained": 10, "test_loss": 1.0, "test_accuracy": 1.0, "tested": 20}
    idle = {"loss": None, "trained": 0, "test_loss": None, "test_accuracy": None, "tested": 0}
    both = {"loss": 1.5, "trained": 40, "test_loss": 2.0, "test_accuracy": pytest.approx(5 / 6), "tested": 30}
    assert together([one, idle, other]) == both
    assert together([idle, one]) == one
    assert together([idle]) == idle


def test_further_metrics_are_sums_over_all_ranks():
    one = {"loss": 1.0, "trained": 3, "test_loss": 4.0, "test_accuracy": 0.5, "tested": 1}
    results = [one | {EXTRA: {"top2": [3.0, 4]}}, one | {EXTRA: {"top2": [1.5, 2]}}]
    assert together(results)[EXTRA] == {"top2": [4.5, 6]}
