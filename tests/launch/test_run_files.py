"""A run that is repeated from its config.yaml ends with the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.jobs import TINY, run

REPEATABLE = (*TINY, "--epochs", "1", "--deterministic", "--lr", "0.003", "--sg.kind", "mlp", "--quiet")


def weights(out: Path) -> list[bytes]:
    """The content of the weights of all stages."""
    return [path.read_bytes() for path in sorted((out / "weights").glob("stage-*.safetensors"))]


def train(*arguments: str) -> None:
    done = run("launch.train", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("stages", ["1", pytest.param("3", marks=pytest.mark.slow)])
def test_a_run_that_is_repeated_from_its_file_has_the_same_weights_to_the_bit(
    tmp_path: Path, stages: str
) -> None:
    first, again = tmp_path / "a", tmp_path / "b"
    train(*REPEATABLE, "--stages", stages, "--seed", "5", "--out", str(first))
    train("--config", str(first / "config.yaml"), "--out", str(again))
    assert len(weights(first)) == int(stages)
    assert weights(again) == weights(first)
    assert (again / "config.yaml").read_text() == (first / "config.yaml").read_text()


def test_a_run_over_time_is_repeated_from_its_file(tmp_path: Path) -> None:
    first, again = tmp_path / "a", tmp_path / "b"
    options = ("--task-args", "width=8", "updates=20", "--epochs", "1", "--bptt", "3", "--seed", "2")
    train("--task", "copy", *options, "--out", str(first))
    train("--config", str(first / "config.yaml"), "--out", str(again))
    model = "model/model.safetensors"
    assert (again / model).read_bytes() == (first / model).read_bytes()
    assert json.loads((again / "summary.json").read_text())["settings"]["bptt"] == 3


def test_loggers_and_the_profiler_see_what_the_records_have(tmp_path: Path) -> None:
    train(*REPEATABLE, "--stages", "1", "--log", "csv", "--profile", "2:4", "--out", str(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]
    values = {(int(step), name): float(value) for step, name, value in logged}
    for line in lines:
        assert values[line["step"], "loss"] == line["loss"]
        assert values[line["step"], "stage_0/busy_s"] == line["stages"][0]["busy_s"]
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    steps = {e["name"]: e for e in events if str(e["name"]).startswith("ProfilerStep#")}
    assert list(steps) == ["ProfilerStep#2", "ProfilerStep#3"]
    forward = next(e for e in events if e.get("cat") == "compute" and e["args"]["step"] == 3)
    assert abs(steps["ProfilerStep#3"]["ts"] - forward["ts"]) < 50_000, "microseconds"
