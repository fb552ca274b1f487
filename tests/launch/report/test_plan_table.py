from __future__ import annotations

from dataclasses import replace

from launch.planning.predict import Prediction
from launch.planning.profile import Profile
from launch.report.plan_table import plan_grid, plan_title
from launch.report.tables import markdown
from tests.support.plans import profile

DONE = Prediction(
    engine="gpipe",
    stages=1024,
    samples_per_s=12345.6,
    speedup=7.891,
    bubble=0.346,
    memory_bytes=12_345_678,
    staleness=0.0,
    micro_batches=32,
)
FAILED = Prediction(engine="ddp", stages=1024, error="too small a batch")


def row(prediction: Prediction) -> list[str]:
    return [column.cells[0] for column in plan_grid([prediction], profile()).columns]


def test_a_row_says_what_was_predicted() -> None:
    assert row(DONE) == ["1,024", "gpipe", "12,346", "7.89 x", "35 %", "12.3", "0.0", "32"]


def test_a_prediction_that_could_not_be_made_gives_its_reason_below() -> None:
    assert row(FAILED) == ["1,024", "ddp", *["-"] * 6]
    assert "ddp, 1024 stages: too small a batch" in plan_grid([DONE, FAILED], profile()).notes


def test_a_reason_stands_once_for_all_numbers_of_stages() -> None:
    notes = plan_grid([FAILED, replace(FAILED, stages=2048)], profile()).notes
    assert [note for note in notes if "ddp" in note] == ["ddp, 1024 stages and more: too small a batch"]


def test_repeated_layers_and_emulated_devices_are_said_above_the_table() -> None:
    assert plan_title(profile()) == "mnist-fcn, 8 layers, batch 64: predicted"
    grown = profile().repeat(1024)
    assert plan_title(grown) == "mnist-fcn, 1,028 layers (8, the middle ones repeated), batch 64: predicted"
    assert plan_title(emulated()) == (
        "mnist-fcn, 8 layers, batch 64, emulated devices of 1.5 GFLOP/s: predicted"
    )
    assert plan_title(grown) in markdown(plan_grid([DONE], grown))


def emulated() -> Profile:
    found = profile()
    found.settings["emulate_gflops"] = 1.5
    return found
