"""What a killed run leaves behind about how far it came."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.job.progress_file import WIDTH, ProgressFile, lost_steps


def on_disk(folder: Path) -> dict[str, int]:
    data = (folder / "reached.json").read_bytes()
    assert len(data) == WIDTH
    told: dict[str, int] = json.loads(data)
    return told


def test_every_step_is_in_the_file_as_soon_as_it_is_done(tmp_path: Path) -> None:
    progress_file = ProgressFile(tmp_path, 5, 0)
    assert on_disk(tmp_path)["step"] == 5
    progress_file.write(6)
    assert on_disk(tmp_path)["step"] == 6


def test_numbers_of_any_length_fit(tmp_path: Path) -> None:
    progress_file = ProgressFile(tmp_path, 0, 0)
    progress_file.write(10**12)
    progress_file.write(7)
    assert on_disk(tmp_path) == {"step": 7, "lost_steps": 0}


@pytest.mark.parametrize(
    ("start", "restart", "lost"), [(40, True, 12 + 3), (40, False, 12), (60, True, 3), (60, False, 0)]
)
def test_the_lost_steps_lie_between_the_checkpoint_and_the_kill(
    tmp_path: Path, start: int, restart: bool, lost: int
) -> None:
    text = '{"step": 52, "lost_steps": 3}'
    (tmp_path / "reached.json").write_text(text)
    assert lost_steps(tmp_path, start, restart=restart) == lost
    assert (tmp_path / "reached.json").read_text() == text
    ProgressFile(tmp_path, start, lost)
    assert on_disk(tmp_path) == {"step": start, "lost_steps": lost}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"step": Infinity, "lost_steps": 0}', '{"step": "x", "lost_steps": 0}', '{"step": 1}'],
)
def test_a_foreign_progress_file_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "reached.json").write_text(text)
    assert lost_steps(tmp_path, 3, restart=True) == 0
