"""Traces of the profiler as events of the timeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launch.report.profiles import profiled_events
from workers.runtime.profiler import CLOCK, CLOCK_EVENT


def write(out: Path, rank: int, clock: float, events: list[dict[str, Any]]) -> None:
    (out / "profile").mkdir(exist_ok=True)
    mark = {"ph": "X", "name": CLOCK_EVENT, "pid": 7, "tid": 1, "ts": 100.0, "dur": 1.0}
    (out / "profile" / f"rank-{rank}.json").write_text(
        json.dumps({"traceEvents": [mark, *events], CLOCK: clock})
    )


def test_ranks_share_the_clock_of_the_timeline_and_have_processes_of_their_own(tmp_path: Path) -> None:
    event = {"ph": "X", "name": "aten::mm", "pid": 7, "tid": 1, "ts": 130.0, "dur": 5.0}
    name = {"ph": "M", "name": "process_name", "pid": 7, "tid": 0, "args": {"name": "python"}}
    arrow = {"ph": "s", "name": "fwdbwd", "pid": 7, "tid": 1, "ts": 131.0, "id": 3}
    write(tmp_path, 0, 5000.0, [name, event, arrow])
    write(tmp_path, 1, 6000.0, [event])
    events = list(profiled_events(tmp_path, start=4000.0))
    assert [(e["pid"], e["ts"]) for e in events if e["name"] == "aten::mm"] == [(1, 1030.0), (2, 2030.0)]
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == ["rank-0: python"]
    assert [(e["ts"], e["id"]) for e in events if e["ph"] == "s"] == [(1031.0, "rank-0 3")]
    assert 0 not in {e["pid"] for e in events}, "the timeline's own"


def test_without_profiles_there_are_no_events(tmp_path: Path) -> None:
    assert list(profiled_events(tmp_path, 0.0)) == []
