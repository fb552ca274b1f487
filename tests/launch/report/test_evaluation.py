"""The names of what evaluations measured."""

from __future__ import annotations

from dni_async.rules.loss import EXTRA
from launch.report.evaluation import metric_key, named_result, split_of
from tests.support import summaries as samples


def test_the_results_of_a_validation_have_names_of_their_own() -> None:
    result = {"loss": 0.5, "test_loss": 0.6, "test_accuracy": 0.7, "tested": 20}
    assert named_result(result, "validation", "accuracy", lambda mean: mean) == {
        "loss": 0.5,
        "validation_loss": 0.6,
        "validation_accuracy": 0.7,
        "tested": 20,
    }


def test_a_metric_has_its_own_name_and_is_reported_in_its_own_unit() -> None:
    result = {"test_loss": 0.6, "test_accuracy": 3.0}
    assert named_result(result, "test", "bits per char", lambda mean: mean / 2) == {
        "test_loss": 0.6,
        "test_bits_per_char": 1.5,
    }
    assert named_result({"local_accuracy": None}, "test", "score", lambda mean: mean / 2) == {
        "local_score": None
    }


def test_further_metrics_are_the_means_of_their_scores() -> None:
    sums = {EXTRA: {"top2": [3.0, 4], "rank_1": [0.0, 0]}}
    assert named_result(sums, "validation", "accuracy", lambda mean: mean) == {
        "validation_top2": 0.75,
        "validation_rank_1": None,
    }


def test_the_key_of_a_classification_is_test_accuracy() -> None:
    assert metric_key("test", "accuracy") == "test_accuracy"


def test_the_set_is_known_by_the_names() -> None:
    assert split_of(samples.summary()["evaluations"]) == split_of([]) == "test"
    assert split_of(samples.validated()["evaluations"]) == "validation"
