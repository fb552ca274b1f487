"""Engines side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch import compare
from launch.compare import make_rows
from launch.config import CompareConfig, TrainConfig
from launch.files import prepare_out, write_json
from tasks.base import Task
from tests.launch.jobs import TINY, run
from workers.supervise import Guard, Told


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A comparison of backprop and cdni: its folder and what it printed."""
    out = tmp_path_factory.mktemp("compared") / "run"
    arguments = ("--engines", "backprop", "cdni", "--stages", "2", *TINY, "--epochs", "2", "--out", str(out))
    done = run("launch.compare", *arguments)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_every_engine_runs_in_a_job_of_its_own_and_gets_a_row(compared: tuple[Path, str]) -> None:
    out, printed = compared
    rows = json.loads((out / "compare.json").read_text())["rows"]
    assert [(row["engine"], row["stages"]) for row in rows] == [("backprop", 1), ("cdni", 2)]
    for row in rows:
        summary = json.loads((out / row["engine"] / "summary.json").read_text())
        assert row["samples_per_s"] == summary["samples_per_s"]
        assert row["test_accuracy"] == summary["final"]["test_accuracy"]
        assert row["train_s"] == summary["train_s"]
    assert rows[0]["speedup"] == 1.0
    assert rows[1]["speedup"] == pytest.approx(rows[1]["samples_per_s"] / rows[0]["samples_per_s"])
    assert "speed-up" in printed and str(out) in printed


def test_table_and_picture_are_written(compared: tuple[Path, str]) -> None:
    out, _ = compared
    assert "| backprop" in (out / "compare.md").read_text() or "|backprop" in (out / "compare.md").read_text()
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


def summary(speed: float) -> dict[str, Any]:
    return {
        "samples_per_s": speed,
        "train_s": 1.0,
        "final": {"test_accuracy": 0.9},
        "stages": [{"utilisation": 0.5, "peak_rss_bytes": 1}],
    }


def test_rows_are_medians_over_the_repeats() -> None:
    config = CompareConfig(engines=("backprop", "cdni"), repeats=3)
    rows = make_rows(
        config,
        {"backprop": [summary(v) for v in (100, 90, 400)], "cdni": [summary(v) for v in (150, 300, 200)]},
    )
    assert [row["samples_per_s"] for row in rows] == [100, 200]
    assert [row["speedup"] for row in rows] == [1.0, 2.0]


def test_an_engine_that_fails_gives_its_reason_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_local(job: TrainConfig, task: Task) -> None:
        if job.rule == "dni" and job.engine == "decoupled":
            raise Told("stage 1 (rank 1), at step 7: the loss is nan", 2)
        write_json(prepare_out(job.out) / "summary.json", compared_summary(job.engine_name))

    monkeypatch.setattr(compare, "run_local", run_local)
    arguments = ["--engines", "backprop", "dni", "cdni", *TINY, "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["launch.compare", *arguments])
    compare.work(Guard())
    rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert [row["engine"] for row in rows if "error" not in row] == ["backprop", "cdni"]
    assert rows[1]["error"] == "stage 1 (rank 1), at step 7: the loss is nan"
    assert "dni failed: stage 1 (rank 1), at step 7: the loss is nan" in capsys.readouterr().out


def compared_summary(engine: str) -> dict[str, Any]:
    epochs = [{"epoch": 1, "loss": 1.0, "test_loss": 1.0, "test_accuracy": 0.9, "seconds": 1.0}]
    return summary(100.0) | {
        "task": "digits-fcn",
        "engine": engine,
        "epochs": epochs,
        "dataset": {"train": 1, "test": 1},
    }


def test_bad_input_is_one_line_and_status_2() -> None:
    done = run("launch.compare", "--engines", "backprop", "magic")
    assert done.returncode == 2
    assert done.stderr.startswith("dni-async: unknown engine (magic)") and done.stderr.count("\n") == 1
