"""What each stage did when: the Chrome trace, the window worth looking at, and how much overlapped.

A timeline is a list with one row per stage, times in microseconds since one common t0:

    [{"stage": 0, "events": [["forward", 0.0, 900.0, 0], ["backward", 900.0, 1100.0, 0], ...]}, ...]
                               name      start  duration step

Which part of it is steady (A..F are training steps, E evaluation, every gap between E is a stretch):

    stage 0  A B C D E E . . A B C D E F G H E E
    stage 1  . A B C D E E . . A B C D E F G H E E
                                   [-------]         the middle of the last stretch, all stages at work
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Timeline = Sequence[Mapping[str, Any]]
Interval = tuple[float, float]

COMPUTE = ("forward", "backward", "update", "sg", "head")
"""The kinds of event in which a stage computes for training."""

_CATEGORY = {"send": "transport", "wait": "idle", "evaluate": "evaluation", "checkpoint": "storage"}


class Span(NamedTuple):
    """One event of one stage, in microseconds."""

    name: str
    start: float
    duration: float
    step: int

    @property
    def end(self) -> float:
        """When it was over."""
        return self.start + self.duration


def spans(row: Mapping[str, Any]) -> list[Span]:
    """The events of one row of a timeline."""
    return [Span(str(name), float(start), float(us), int(step)) for name, start, us, step in row["events"]]


def chrome_trace(timeline: Timeline, summary: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The timeline as Chrome trace events: open the file at https://ui.perfetto.dev or chrome://tracing.

    One row per stage, named after the layers it holds when the `summary` of the run is given.
    """
    about = summary or {}
    events = [_metadata("process_name", 0, name=f"dni_async {run_name(about)}".strip())]
    for row in timeline:
        tid = int(row["stage"])
        events.append(_metadata("thread_name", tid, name=_row_name(tid, about)))
        events.append(_metadata("thread_sort_index", tid, sort_index=tid))
    for row in timeline:
        events.extend(_complete(int(row["stage"]), span) for span in spans(row))
    keys = ("task", "engine", "rule", "seed", "versions", "emulated_gflops")
    other = {key: about[key] for key in keys if key in about}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": other}


def _metadata(kind: str, tid: int, **args: Any) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 0, "tid": tid, "args": args}


def _complete(tid: int, span: Span) -> dict[str, Any]:
    return {
        "name": span.name,
        "cat": _CATEGORY.get(span.name, "compute"),
        "ph": "X",
        "ts": span.start,
        "dur": span.duration,
        "pid": 0,
        "tid": tid,
        "args": {"step": span.step},
    }


def _row_name(index: int, summary: Mapping[str, Any]) -> str:
    for stage in summary.get("stages", ()):
        if stage["index"] == index and stage.get("layers"):
            return f"stage {index} ({layer_range(stage['layers'])})"
    return f"stage {index}"


def run_name(summary: Mapping[str, Any]) -> str:
    """`mnist-fcn, cdni`; on emulated devices `mnist-fcn, cdni, emulated (5 GFLOP/s per stage)`."""
    parts = [*(summary.get(key) for key in ("task", "engine")), conditions(summary)]
    return ", ".join(str(part) for part in parts if part)


def conditions(summary: Mapping[str, Any]) -> str:
    """`bf16, emulated (5 GFLOP/s per stage)`; nothing for a run in fp32 on real devices."""
    precision, speed = summary.get("precision", "fp32"), summary.get("emulated_gflops")
    parts = [
        precision if precision != "fp32" else "",
        f"emulated ({speed:g} GFLOP/s per stage)" if speed else "",
    ]
    return ", ".join(part for part in parts if part)


def layer_range(layers: Sequence[str]) -> str:
    """`["0 Linear", "1 ReLU", "2 Linear"]` becomes `layers 0-2`."""
    first, last = layers[0].split()[0], layers[-1].split()[0]
    return f"layer {first}" if len(layers) == 1 else f"layers {first}-{last}"


def steady_window(timeline: Timeline, steps: int = 8) -> Interval:
    """(start, end) in us of about `steps` steps in the middle of the last stretch of training.

    No evaluation falls into it and all stages are at work. A stretch too short for `steps` steps is
    taken only when there is no longer one. Without a single event it is (0, 0).
    """
    rows = [[span for span in spans(row) if span.name in COMPUTE] for row in timeline]
    rows = [row for row in rows if row]
    if not rows:
        return 0.0, 0.0
    shared = [common for gap in _between_evaluations(timeline) if (common := _all_at_work(rows, gap))]
    if not shared:
        return min(row[0].start for row in rows), max(span.end for row in rows for span in row)
    starts = [_step_starts(rows[0], interval) for interval in shared]
    enough = min(steps, max(len(found) for found in starts))
    last = max(i for i, found in enumerate(starts) if len(found) >= enough)
    return _middle(starts[last], shared[last], steps)


def _between_evaluations(timeline: Timeline) -> Iterator[Interval]:
    """The times in which no stage evaluates."""
    evaluations = ((s.start, s.end) for row in timeline for s in spans(row) if s.name == "evaluate")
    free_from = float("-inf")
    for start, end in _merged(evaluations):
        yield free_from, start
        free_from = end
    yield free_from, float("inf")


def _all_at_work(rows: Sequence[Sequence[Span]], gap: Interval) -> Interval | None:
    """The part of `gap` from when the last stage has started until the first one stops."""
    start, end = gap
    for row in rows:
        inside = _within(row, gap)
        if not inside:
            return None
        start, end = max(start, inside[0].start), min(end, inside[-1].end)
    return (start, end) if start < end else None


def _within(row: Sequence[Span], interval: Interval) -> Sequence[Span]:
    """The events of a time-ordered row that start in the interval."""
    first, last = (bisect_left(row, at, key=lambda span: span.start) for at in interval)
    return row[first:last]


def _step_starts(row: Sequence[Span], interval: Interval) -> list[float]:
    """When each step begins on this stage."""
    inside = _within(row, interval)
    forwards = [span for span in inside if span.name == "forward"] or inside
    first: dict[int, float] = {}
    for span in forwards:
        first.setdefault(span.step, span.start)
    return sorted(first.values())


def _middle(starts: Sequence[float], interval: Interval, steps: int) -> Interval:
    """`steps` steps around the median one; the interval itself when it has no more than that."""
    if len(starts) <= steps:
        return interval
    first = max(0, min(len(starts) // 2 - steps // 2, len(starts) - 1 - steps))
    return starts[first], starts[first + steps]


def overlap(timeline: Timeline, window: Interval | None = None) -> float:
    """Share (0..1) of the window (the steady one) in which at least two stages compute at once."""
    window = window or steady_window(timeline)
    if window[1] <= window[0]:
        return 0.0
    changes: list[tuple[float, int]] = []
    for row in timeline:
        for start, end in compute_intervals(row, window):
            changes += [(start, 1), (end, -1)]
    together, at_work, since = 0.0, 0, window[0]
    for time, change in sorted(changes):
        if at_work >= 2:
            together += time - since
        at_work, since = at_work + change, time
    return together / (window[1] - window[0])


def compute_intervals(row: Mapping[str, Any], window: Interval) -> list[Interval]:
    """When this stage computes inside the window: disjoint and in order."""
    low, high = window
    clipped = ((max(s.start, low), min(s.end, high)) for s in spans(row) if s.name in COMPUTE)
    return list(_merged((start, end) for start, end in clipped if start < end))


def _merged(intervals: Iterable[Interval]) -> Iterator[Interval]:
    """The union of the intervals, disjoint and in order."""
    current: Interval | None = None
    for start, end in sorted(intervals):
        if current and start <= current[1]:
            current = current[0], max(current[1], end)
            continue
        if current:
            yield current
        current = start, end
    if current:
        yield current
