"""Rows are medians of runs, with their spread."""

import pytest

from launch.report.comparison_rows import held_bytes, make_row, make_rows
from tests.support import summaries as samples


def run(speed=100.0, accuracy=0.9, **changes):
    final = {"loss": 0.1, "test_loss": 0.2, "test_accuracy": accuracy}
    return samples.summary(samples_per_s=speed, final=final, **changes)


def until(seconds, epochs=None, accuracy=0.97):
    reached = {"seconds": seconds, "seconds_without_evaluations": seconds and seconds / 2}
    return {"accuracy": accuracy, "reached": seconds is not None, "epochs": epochs, "steps": None} | reached


def test_rows_are_medians_with_the_least_and_the_most():
    row = make_row("cdni", [run(150, 0.97), run(300, 0.96), run(200, 0.98)])
    assert (row["samples_per_s"], row["samples_per_s_spread"]) == (200, [150, 300])
    assert (row["test_accuracy"], row["test_accuracy_spread"]) == (0.97, [0.96, 0.98])
    assert (row["train_s"], row["train_s_spread"]) == (20.0, [20.0, 20.0])
    assert [one["samples_per_s"] for one in row["runs"]] == [150, 300, 200]


def test_the_speed_up_is_over_the_median_of_backprop():
    backprop = [run(v) for v in (100, 90, 400)]
    rows = make_rows({"dni": [run(50)], "backprop": backprop, "cdni": [run(v) for v in (150, 300, 200)]})
    assert [row["speedup"] for row in rows] == [0.5, 1.0, 2.0]
    assert [row["speedup_spread"] for row in rows] == [[0.5, 0.5], [0.9, 4.0], [1.5, 3.0]]


def test_without_backprop_there_is_no_speed_up():
    for rows in (
        make_rows({"cdni": [run()]}),
        make_rows({"backprop": [{"error": "no", "status": 1, "stages": 1}], "cdni": [run()]}),
        make_rows({"backprop": [run(None)], "cdni": [run()]}),
    ):
        assert rows[-1]["speedup"] is None and rows[-1]["speedup_spread"] is None


def test_an_engine_with_a_failed_run_shows_its_error():
    row = make_row("dni", [run(), {"error": "the loss is nan", "status": 2, "stages": 2}])
    assert row == {"engine": "dni", "stages": 2, "error": "the loss is nan"}


def test_stages_have_the_median_utilisation_and_the_most_memory():
    runs = [run(), run(), run()]
    for i, one in enumerate(runs):
        one["stages"][1] |= {"utilisation": 0.5 + i / 10, "peak_rss_bytes": 100 * i, "held_bytes": 7 * i}
    row = make_row("cdni", runs)
    assert row["stages"] == 2
    assert row["utilisation"] == [0.971, 0.6]
    assert row["peak_rss_bytes"] == [412_300_000, 200]
    assert row["held_bytes"] == [1_500_000, 500_014]


@pytest.mark.parametrize(
    ("stage", "held"),
    [
        ({}, None),
        ({"slots_bytes": 3}, 3),
        ({"held_bytes": 0}, 0),
        ({"slots_bytes": 3, "held_bytes": 4}, 7),
        ({"slots_bytes": None, "held_bytes": 4}, 4),
    ],
)
def test_held_bytes_are_those_of_slots_and_rule(stage, held):
    assert held_bytes(stage) == held


@pytest.mark.parametrize(
    ("seconds", "median", "reached"),
    [
        ([5.0], 5.0, 1),
        ([None], None, 0),
        ([5.0, 9.0, 6.0], 6.0, 3),
        ([5.0, None, 6.0], 6.0, 2),
        ([5.0, None, None], None, 1),
        ([5.0, None], None, 1),
    ],
)
def test_a_run_that_missed_the_target_accuracy_counts_as_longer_than_any(seconds, median, reached):
    row = make_row("cdni", [run(until=until(s, s and s / 2)) for s in seconds])
    told = row["until"]
    assert (told["accuracy"], told["seconds"], told["reached"]) == (0.97, median, reached)
    assert told["runs"] == len(seconds)
    assert told["epochs"] == told["seconds_without_evaluations"] == (median and median / 2)


def test_without_a_target_accuracy_rows_have_no_time_to_it():
    assert make_row("cdni", [run(), run()])["until"] is None


def test_rows_of_pipelines_name_their_micro_batches():
    assert make_row("gpipe", [run(micro_batches=8), run(micro_batches=4)])["micro_batches"] == [4, 8]
    assert make_row("cdni", [run()])["micro_batches"] == []


def test_equal_notes_of_several_runs_are_shown_once():
    runs = [run(notes=["no MNIST here"]), run(notes=["no MNIST here", "overran"])]
    assert make_row("cdni", runs)["notes"] == ["no MNIST here", "overran"]


def test_every_run_in_a_row_has_its_seed_and_its_curve():
    row = make_row("cdni", [run(seed=3), run(seed=4)])
    assert [one["seed"] for one in row["runs"]] == [3, 4]
    assert [record["test_accuracy"] for record in row["runs"][0]["evaluations"]][-1] == 0.9841
    assert row["runs"][0]["stages"][0]["held_bytes"] == 1_500_000


def test_rows_with_validation_name_the_epoch_of_the_tested_weights():
    row = make_row("cdni", [samples.validated(best=best) for best in (2, 4, 3)])
    assert (row["best_epoch"], row["best_epoch_spread"]) == (3, [2, 4])
    assert row["runs"][0]["evaluations"][1]["validation_accuracy"] == 0.9612
    assert "test_accuracy" not in row["runs"][0]["evaluations"][1]
    assert make_row("cdni", [run()])["best_epoch"] is None
