"""torch.profiler over chosen steps of a rank."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from workers.runtime.probe import Probe
from workers.runtime.profiler import CLOCK, CLOCK_EVENT, StepProfiler


def test_the_trace_has_the_chosen_steps_and_says_where_they_are_on_the_clock(tmp_path: Path) -> None:
    probe, path = Probe(), tmp_path / "profile" / "rank-1.json"
    profiler = StepProfiler(range(2, 4), path, 1, 3)
    profiler.attach(probe)
    x, before = torch.ones(8, 8), 0.0
    for step in range(6):
        probe.begin(step, True)
        if step == 2:
            before = time.perf_counter() * 1e6
        probe.begin(max(0, step - 1), True)  # a target of the step before
        probe.begin(step, False)  # an evaluation
        torch.mm(x, x)
        probe.mark("forward")
        assert path.exists() is (step >= 4)
    profiler.finish()
    trace = json.loads(path.read_text())
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    steps = {event["name"]: event for event in events if event["name"].startswith("ProfilerStep#")}
    assert list(steps) == ["ProfilerStep#2", "ProfilerStep#3"]
    assert trace["distributedInfo"]["rank"] == 1
    products = [event for event in events if event["name"] == "aten::mm"]
    assert len(products) == 2
    mark = next(event for event in events if event["name"] == CLOCK_EVENT)
    started = trace[CLOCK] - mark["ts"] + steps["ProfilerStep#2"]["ts"]
    assert abs(started - before) < 50_000, "microseconds"


def test_a_run_that_ends_within_the_steps_leaves_what_was_recorded(tmp_path: Path) -> None:
    probe, path = Probe(), tmp_path / "rank-0.json"
    profiler = StepProfiler(range(1, 100), path, 0, 1)
    profiler.attach(probe)
    for step in range(3):
        probe.begin(step, True)
    profiler.finish()
    profiler.finish()
    names = {event["name"] for event in json.loads(path.read_text())["traceEvents"]}
    assert {"ProfilerStep#1", "ProfilerStep#2"} <= names
    unused = StepProfiler(range(7, 9), tmp_path / "unused.json", 0, 1)
    unused.attach(Probe())
    unused.finish()
    assert not (tmp_path / "unused.json").exists()


def test_a_trace_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profile").write_text("a file")
    path = tmp_path / "profile" / "rank-0.json"
    probe = Probe()
    profiler = StepProfiler(range(1, 2), path, 0, 1)
    profiler.attach(probe)
    for step in range(3):
        probe.begin(step, True)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dni-async: cannot write {path} (")
    assert line.endswith("); training goes on")
    assert not profiler.steps
