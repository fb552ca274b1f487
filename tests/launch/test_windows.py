"""`launch.windows` runs every rule with every window and seed, and writes what came out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch import windows
from workers.failure.rank_runner import RankRunner


def test_every_rule_and_window_is_trained_and_its_results_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "--task copy --task-args width=4 updates=6 --epochs 2 --batch-size 4 --windows 2 3 --repeats 2"
    monkeypatch.setattr("sys.argv", ["windows", *line.split(), "--out", str(tmp_path)])
    windows.work(RankRunner())
    told = json.loads((tmp_path / "windows.json").read_text())
    assert told["settings"]["windows"] == [2, 3]
    runs = [(run["rule"], run["bptt"], run["seed"]) for run in told["runs"]]
    assert len(set(runs)) == len(runs) == 8
    assert all(run["updates"] >= 12 and run["state_max"] > 0 for run in told["runs"])
    table = (tmp_path / "windows.md").read_text()
    assert "**copy: longest solved length, seeds 0 / 1**" in table and "| 3 | 0 / 0 | 0 / 0 |" in table
    shown = capsys.readouterr().out
    assert "copy, bptt, T = 2, seed 0: longest_solved_length 0, 12 updates" in shown
    assert shown.rstrip().endswith(f"written to {tmp_path}")
