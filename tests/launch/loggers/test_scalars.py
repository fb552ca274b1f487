"""Which numbers of a record loggers get."""

from __future__ import annotations

from launch.loggers.scalars import scalars_of


def test_measurements_are_scalars_and_texts_constants_and_gaps_are_not() -> None:
    record = {
        "kind": "epoch",
        "epoch": 1,
        "step": 40,
        "loss": 0.5,
        "test_accuracy": None,
        "samples_per_s": 9.0,
    }
    stages = [
        {"index": 0, "utilisation": 0.9, "threads": 1, "pid": 7, "layers": ["0 Linear"], "alone": True},
        {"index": 1, "utilisation": 0.8, "sg_cosine": None},
    ]
    assert scalars_of(record, stages) == {
        "epoch": 1,
        "loss": 0.5,
        "samples_per_s": 9.0,
        "stage_0/utilisation": 0.9,
        "stage_1/utilisation": 0.8,
    }
