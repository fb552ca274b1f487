"""What torch.profiler recorded in every rank, as events of the run's timeline.

OUT/profile/rank-0.json      its own clock, process ids of the machine     ─┐
OUT/profile/rank-1.json                                                    ─┴─► timeline.json: one clock,
                                                                                a process for each rank
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launch.job.output_folder import PROFILES
from workers.runtime.profiler import CLOCK, CLOCK_EVENT


def profiled_events(out: Path, start: float) -> Iterator[dict[str, Any]]:
    """Yield the events of all ranks.

    Args:
        start: where the timeline begins, in microseconds of the clock of all ranks of a host.
    """
    numbers: dict[tuple[str, Any], int] = {}
    for path in sorted((out / PROFILES).glob("rank-*.json")):
        trace = json.loads(path.read_text(encoding="utf-8"))
        events = trace["traceEvents"]
        mark = next(event["ts"] for event in events if event.get("name") == CLOCK_EVENT)
        shift = trace[CLOCK] - mark - start
        for event in events:
            yield from _moved(event, path.stem, shift, numbers)


def _moved(
    event: Mapping[str, Any], rank: str, shift: float, numbers: dict[tuple[str, Any], int]
) -> Iterator[dict[str, Any]]:
    """Yield the event in the timeline: with its clock, and with a number of its own for its process."""
    if event.get("name") == CLOCK_EVENT:
        return
    key = (rank, event.get("pid"))
    first = key not in numbers
    pid = numbers.setdefault(key, 1 + len(numbers))
    if first:
        yield {"name": "process_sort_index", "ph": "M", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    moved = {**event, "pid": pid}
    if event.get("ph") == "M" and event.get("name") == "process_name":
        moved["args"] = {"name": f"{rank}: {event.get('args', {}).get('name', '')}"}
    elif event.get("name") == "process_sort_index":
        return
    if "ts" in event:
        moved["ts"] = event["ts"] + shift
    if event.get("ph") in ("s", "f", "t") and "id" in event:
        moved["id"] = f"{rank} {event['id']}"
    yield moved
