"""What each stage did when: the steady part of a run, and how much the stages overlapped.

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


class Span(NamedTuple):
    """One event of one stage, in microseconds."""

    name: str
    start: float
    duration: float
    step: int

    @property
    def end(self) -> float:
        """End of the event."""
        return self.start + self.duration


def spans(row: Mapping[str, Any]) -> list[Span]:
    """Return the events of one row of a timeline."""
    return [Span(str(name), float(start), float(us), int(step)) for name, start, us, step in row["events"]]


def steady_window(timeline: Timeline, steps: int = 8) -> Interval:
    """Return (start, end) in us of about `steps` steps in the middle of the last stretch of training.

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
    wanted = min(steps, max(len(found) for found in starts))
    last = max(i for i, found in enumerate(starts) if len(found) >= wanted)
    return _middle(starts[last], shared[last], steps)


def _between_evaluations(timeline: Timeline) -> Iterator[Interval]:
    """Yield the times in which no stage evaluates."""
    evaluations = ((s.start, s.end) for row in timeline for s in spans(row) if s.name == "evaluate")
    free_from = float("-inf")
    for start, end in _merged(evaluations):
        yield free_from, start
        free_from = end
    yield free_from, float("inf")


def _all_at_work(rows: Sequence[Sequence[Span]], gap: Interval) -> Interval | None:
    """Return the part of `gap` from when the last stage has started until the first one stops."""
    start, end = gap
    for row in rows:
        inside = _within(row, gap)
        if not inside:
            return None
        start, end = max(start, inside[0].start), min(end, inside[-1].end)
    return (start, end) if start < end else None


def _within(row: Sequence[Span], interval: Interval) -> Sequence[Span]:
    """Return the events of a time-ordered row that start in the interval."""
    first, last = (bisect_left(row, at, key=lambda span: span.start) for at in interval)
    return row[first:last]


def _step_starts(row: Sequence[Span], interval: Interval) -> list[float]:
    """Return the times at which each step begins on this stage."""
    inside = _within(row, interval)
    forwards = [span for span in inside if span.name == "forward"] or inside
    first: dict[int, float] = {}
    for span in forwards:
        first.setdefault(span.step, span.start)
    return sorted(first.values())


def _middle(starts: Sequence[float], interval: Interval, steps: int) -> Interval:
    """Return `steps` steps around the median one; the interval itself when it has no more than that."""
    if len(starts) <= steps:
        return interval
    first = max(0, min(len(starts) // 2 - steps // 2, len(starts) - 1 - steps))
    return starts[first], starts[first + steps]


def overlap(timeline: Timeline, window: Interval | None = None) -> float:
    """Return the share (0..1) of the window (the steady one) in which two or more stages compute."""
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
    """Return the intervals in which this stage computes inside the window, disjoint and in order."""
    low, high = window
    clipped = ((max(s.start, low), min(s.end, high)) for s in spans(row) if s.name in COMPUTE)
    return list(_merged((start, end) for start, end in clipped if start < end))


def _merged(intervals: Iterable[Interval]) -> Iterator[Interval]:
    """Yield the union of the intervals, disjoint and in order."""
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


def shift_to_zero(timeline: list[dict[str, Any]]) -> float:
    """Let the times of the timeline begin at zero; return where they began, in microseconds of the clock."""
    start = min((row["events"][0][1] for row in timeline if row["events"]), default=0.0)
    for row in timeline:
        for event in row["events"]:
            event[1] = round(event[1] - start, 1)
    return start
