"""The file of --log csv."""

from __future__ import annotations

import csv
from pathlib import Path

from launch.loggers.base import LoggedRun
from launch.loggers.csv_file import CsvLogger


def rows(out: Path) -> list[tuple[str, ...]]:
    with open(out / "metrics.csv", newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_each_number_is_a_line_that_others_can_read_at_once(tmp_path: Path) -> None:
    logger = CsvLogger(LoggedRun("a run", tmp_path))
    logger.log(7, {"loss": 0.1, "stage_0/utilisation": 1})
    assert rows(tmp_path) == [
        ("step", "name", "value"),
        ("7", "loss", "0.1"),
        ("7", "stage_0/utilisation", "1"),
    ]
    logger.close()


def test_a_run_that_goes_on_keeps_the_numbers_up_to_its_step_and_another_run_none(tmp_path: Path) -> None:
    first = CsvLogger(LoggedRun("a run", tmp_path))
    for step in (10, 20, 30):
        first.log(step, {"loss": step / 100})
    first.close()
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("40,lo")  # killed while it wrote
    again = CsvLogger(LoggedRun("a run", tmp_path, start=20))
    again.log(25, {"loss": 0.0})
    again.close()
    assert rows(tmp_path)[1:] == [("10", "loss", "0.1"), ("20", "loss", "0.2"), ("25", "loss", "0.0")]
    CsvLogger(LoggedRun("another run", tmp_path)).close()
    assert rows(tmp_path) == [("step", "name", "value")]
