"""What happens in a few steps of a recorded run: the work of each stage, the messages, and the updates.

```
stage 0    forward 7 ─┐  backward 7   update   forward 8 ...   sg 7
stage 1               └─► forward 7 ── backward 7 ──────────── ┘      the late target of batch 7
```
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from launch.report.timeline import COMPUTE, Interval, Span, Timeline, spans

SHORT = 0.1
"""Events shorter than this share of the longest of their kind in a stage are left out."""


class Work(NamedTuple):
    """One piece of work of a stage; `part` counts the micro-batches of a step."""

    kind: str
    start: float
    end: float
    step: int
    part: int


class Message(NamedTuple):
    """An activation on its way down, or a gradient on its way up; times in microseconds."""

    source: int
    target: int
    step: int
    sent: float
    used: float

    @property
    def goes_down(self) -> bool:
        """Whether it is an activation."""
        return self.target > self.source


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything in a window of time."""

    window: Interval
    work: Sequence[Sequence[Work]]
    """By stage, the parts of it inside the window."""
    messages: Sequence[Message]
    updates: Sequence[Sequence[float]]
    """By stage, the times of its updates."""

    @property
    def busy(self) -> float:
        """The share of the window in which stages compute, their mean."""
        length = self.window[1] - self.window[0]
        return sum(w.end - w.start for row in self.work for w in row) / (length * len(self.work))


def make_scene(timeline: Timeline, window: Interval) -> Scene:
    """Return what happens in the window."""
    rows = [spans(row) for row in sorted(timeline, key=lambda row: int(row["stage"]))]
    work = [_work(row) for row in rows]
    updates = [[end for end in _updates(row) if window[0] <= end < window[1]] for row in rows]
    found = [m for m in _messages(work) if m.used > window[0] and m.sent < window[1]]
    return Scene(window, [_clipped(row, window) for row in work], found, updates)


def _work(row: Sequence[Span]) -> list[Work]:
    """Return the computations of a stage, with the number of the micro-batch within its step."""
    computing = [span for span in row if span.name in COMPUTE]
    longest: dict[str, float] = defaultdict(float)
    for span in computing:
        longest[span.name] = max(longest[span.name], span.duration)
    counts: dict[tuple[str, int], int] = defaultdict(int)
    found = []
    for span in computing:
        if span.name != "update" and span.duration < SHORT * longest[span.name]:
            continue
        part = counts[span.name, span.step]
        counts[span.name, span.step] += 1
        found.append(Work(span.name, span.start, span.end, span.step, part))
    return found


def _messages(work: Sequence[Sequence[Work]]) -> Iterator[Message]:
    for upper, row in enumerate(work[:-1]):
        below = work[upper + 1]
        forwards = {(w.step, w.part): w for w in below if w.kind == "forward"}
        for sent in row:
            used = forwards.get((sent.step, sent.part)) if sent.kind == "forward" else None
            if used and used.start >= sent.end:
                yield Message(upper, upper + 1, sent.step, sent.end, used.start)
        learning: dict[int, list[Work]] = defaultdict(list)
        for w in row:
            if w.kind in ("sg", "backward"):
                learning[w.step].append(w)
        for sent in below:
            if sent.kind == "backward":
                used = next((w for w in learning[sent.step] if w.start >= sent.end), None)
                if used:
                    learning[sent.step].remove(used)
                    yield Message(upper + 1, upper, sent.step, sent.end, used.start)


def _clipped(row: Sequence[Work], window: Interval) -> list[Work]:
    low, high = window
    seen = (w for w in row if w.end > low and w.start < high)
    return [w._replace(start=max(w.start, low), end=min(w.end, high)) for w in seen]


def _updates(row: Sequence[Span]) -> list[float]:
    """Return when the update of each step ended."""
    return sorted({span.step: span.end for span in row if span.name == "update"}.values())
