"""The campaign of damaged data files, in its short form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.damaged_data import DataSet, campaign, damaged, problem, special, write_text


def test_special_files_are_refused_in_one_line_that_names_them(tmp_path: Path) -> None:
    report = campaign(special(), tmp_path)
    assert report.cases > 50 and report.problems == []


def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    report = campaign(damaged(100, seed=0), tmp_path)
    assert (report.cases, report.problems) == (100, [])


@pytest.mark.parametrize("error", [ValueError("bad"), MemoryError("much")])
def test_a_raw_error_of_a_reader_is_a_problem(tmp_path: Path, error: Exception) -> None:
    def read(folder: Path) -> None:
        raise error

    found = problem(DataSet(write_text, read), lambda folder: None, tmp_path / "text")
    assert found == f"{type(error).__name__}: {error}"
