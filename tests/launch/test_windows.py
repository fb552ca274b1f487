"""`launch.windows` runs every rule with every window and seed, and writes what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dni_async.errors import UserError
from launch import windows
from launch.windows import WindowsConfig
from workers.failure.rank_runner import RankRunner


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"rule": "bptt"}, "rule is bptt; side by side use --rules"),
        ({"bptt": 8}, "bptt is 8; side by side use --windows"),
        ({"rules": ()}, "rules is empty; name at least one"),
        ({"windows": (4, 4)}, "windows is 4 4; name at least one, each once"),
        ({"repeats": 0}, "repeats is 0"),
        ({"rules": ("bptt", "cdni")}, r"unknown rule for a task over time \(cdni\)"),
        ({"windows": (2, 0)}, "bptt is 0; it must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        WindowsConfig(**settings)


def test_rules_and_windows_take_turns_seed_after_seed() -> None:
    config = WindowsConfig(rules=("bptt", "dni"), windows=(2, 8), repeats=2, seed=3, lr=1e-2)
    jobs = config.jobs()
    first = [("bptt", 2), ("dni", 2), ("bptt", 8), ("dni", 8)]
    assert [(job.rule, job.bptt, job.seed) for job in jobs] == [
        (*each, seed) for seed in (3, 4) for each in first
    ]
    assert {job.lr for job in jobs} == {1e-2}


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
