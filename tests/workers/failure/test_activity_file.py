"""What ranks wrote last, as their launcher reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.failure.activity_file import ACTIVITY_FILE, read_activity, write_activity


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "activity"
    path.touch()
    monkeypatch.setenv(ACTIVITY_FILE, str(path))
    return path


def test_the_last_activity_of_each_rank_is_kept(path: Path) -> None:
    write_activity(2, "stage 2 (rank 2), at step 100, computing")
    write_activity(0, "stage 0 (rank 0), after step 7, waiting")
    write_activity(2, "stage 2 (rank 2), at step 3")
    assert read_activity(path, 0) == "stage 0 (rank 0), after step 7, waiting"
    assert read_activity(path, 2) == "stage 2 (rank 2), at step 3"


def test_a_rank_that_wrote_nothing_has_not_begun(path: Path) -> None:
    assert read_activity(path, 1) == "rank 1, before the first step"
    write_activity(2, "at work")
    assert read_activity(path, 1) == "rank 1, before the first step"
    assert read_activity(Path("/nowhere/activity"), 1) == "rank 1, before the first step"


def test_a_long_activity_leaves_those_of_other_ranks_alone(path: Path) -> None:
    write_activity(1, "the second")
    write_activity(0, "é" * 1000)
    assert read_activity(path, 1) == "the second"
    assert set(read_activity(path, 0)) == {"é"}


def test_without_a_launcher_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ACTIVITY_FILE, raising=False)
    write_activity(0, "alone")
    monkeypatch.setenv(ACTIVITY_FILE, "/nowhere/activity")
    write_activity(0, "orphaned")
