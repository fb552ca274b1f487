from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launch.local.wan import Wire
from launch.planning.check import Check
from launch.planning.predict import Prediction
from launch.planning.profile import Profile
from launch.report.grid import markdown
from launch.report.plan_table import check_grid, plan_grid, plan_title
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
    far = "mnist-fcn, 8 layers, batch 64, hosts 50 ms apart (round trip) at 1000 Mbit/s: predicted"
    assert plan_title(profile(), Wire.parse("25,1000")) == far
    assert plan_title(emulated()) == (
        "mnist-fcn, 8 layers, batch 64, emulated devices of 1.5 GFLOP/s: predicted"
    )
    assert plan_title(grown) in markdown(plan_grid([DONE], grown))


def emulated() -> Profile:
    found = profile()
    found.settings["emulate_gflops"] = 1.5
    return found


def check(**changes: Any) -> Check:
    known = {"engine": "cdni", "stages": 2, "emulated": False, "predicted": 110.0, "measured": 100.0}
    return Check(**known | changes)


def test_the_table_shows_the_error_in_per_cent_and_why_a_number_is_missing() -> None:
    grid = check_grid([check(), check(measured=None, reason="stage 1 is gone", emulated=True, stages=4)])
    assert [column.cells for column in grid.columns] == [
        ["2", "4"],
        ["cdni", "cdni"],
        ["real", "emulated"],
        ["110", "110"],
        ["100", "-"],
        ["+10.0", "-"],
    ]
    assert grid.notes == ["cdni, 4 stages: stage 1 is gone"]


def test_the_error_is_a_share_of_what_was_measured() -> None:
    assert check().error == pytest.approx(0.1)
    assert check(predicted=80.0).error == pytest.approx(-0.2)
    assert check(measured=None).error is None
