from __future__ import annotations

from pathlib import Path

import pytest

from launch.report.page.write import REPORT, SWITCH, write_run_report
from tests.support.recorded_runs import recorded


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "yes")


def test_a_page_is_written_beside_the_other_results(tmp_path: Path) -> None:
    run = recorded()
    write_run_report(tmp_path, run.summary, run.timeline)
    assert "<title>mnist-fcn, cdni</title>" in (tmp_path / REPORT).read_text()


def test_a_page_that_cannot_be_written_is_worth_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / REPORT).mkdir()
    write_run_report(tmp_path, recorded().summary)
    printed = capsys.readouterr().err
    assert printed.startswith(f"dni-async: cannot write {tmp_path / REPORT} (") and printed.count("\n") == 1


def test_a_page_that_cannot_be_drawn_is_worth_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run_report(tmp_path, {"task": "mnist-fcn"})
    printed = capsys.readouterr().err
    assert printed.startswith(f"dni-async: cannot draw {tmp_path / REPORT} (") and printed.count("\n") == 1
    assert not (tmp_path / REPORT).exists()


def test_the_environment_switches_pages_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "no")
    write_run_report(tmp_path, recorded().summary)
    assert not list(tmp_path.iterdir())
