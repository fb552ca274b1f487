"""What records say of validations."""

from __future__ import annotations

from dni_async.early_stopping import Patience
from launch.config.train import TrainConfig
from launch.report.validation import early_stopping, patience_of, split_of, validated
from tests.support import summaries as samples


def test_patience_is_in_steps_and_there_is_none_unless_it_is_asked_for() -> None:
    assert patience_of(TrainConfig(patience=3), 20) == Patience(60)
    assert patience_of(TrainConfig(), 20) is None


def test_the_results_of_a_validation_have_names_of_their_own() -> None:
    result = {"loss": 0.5, "test_loss": 0.6, "test_accuracy": 0.7, "tested": 20}
    assert validated(result) == {
        "loss": 0.5,
        "validation_loss": 0.6,
        "validation_accuracy": 0.7,
        "tested": 20,
    }


def test_the_keys_of_a_result_tell_the_set_it_was_measured_on() -> None:
    assert split_of(samples.summary()["evaluations"]) == split_of([]) == "test"
    assert split_of(samples.validated()["evaluations"]) == "validation"


def test_the_best_validation_is_the_epoch_that_patience_counts_from() -> None:
    run = samples.validated()
    assert early_stopping(Patience(9, 0.1, best_at=3 * 234), run["evaluations"], "epochs") == {
        "best": run["early_stopping"]["best"],
        "ended": "epochs",
    }
    assert early_stopping(Patience(9), run["evaluations"], "minutes")["best"] is None
