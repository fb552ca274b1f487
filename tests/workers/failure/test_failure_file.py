from __future__ import annotations

from pathlib import Path

import pytest

from workers.failure.failure_file import (
    FAILURE_FILE,
    already_reported,
    has_finished,
    read_failure,
    report_failure,
    report_success,
)


def test_a_failure_line_is_printed_and_written_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FAILURE_FILE, str(tmp_path / "told"))
    report_failure("batch size is 0", 2)
    assert capsys.readouterr().err == "dni-async: batch size is 0\n"
    assert read_failure(tmp_path / "told") == ("batch size is 0", 2)


def test_an_empty_failure_line_is_written_but_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FAILURE_FILE, str(tmp_path / "told"))
    report_failure("", 141)
    assert capsys.readouterr().err == ""
    assert read_failure(tmp_path / "told") == ("", 141)


def test_a_file_that_cannot_be_written_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FAILURE_FILE, "/nowhere/told")
    report_failure("the end")
    assert capsys.readouterr().err == "dni-async: the end\n"


def test_the_end_of_a_job_is_written_and_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FAILURE_FILE, str(tmp_path / "told"))
    assert not has_finished(tmp_path / "told")
    report_success()
    assert has_finished(tmp_path / "told") and not already_reported()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", [None, "", "no number"])
def test_a_missing_or_unreadable_failure_file_means_no_failure(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "told").write_text(text)
    assert read_failure(tmp_path / "told") == ("", 0)


def test_later_processes_see_that_a_failure_was_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FAILURE_FILE, raising=False)
    report_failure("nobody asked", 1)
    assert not already_reported()
    monkeypatch.setenv(FAILURE_FILE, str(tmp_path / "told"))
    assert not already_reported()
    report_failure("", 141)
    assert already_reported()


def test_control_characters_of_strangers_reach_neither_terminal_nor_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FAILURE_FILE, str(tmp_path / "failure"))
    report_failure("a\x1b[2Jb\rc\nd \x9b31m ü")
    assert capsys.readouterr().err == "dni-async: a [2Jb c d  31m ü\n"
    assert read_failure(tmp_path / "failure") == ("a [2Jb c d  31m ü", 1)
