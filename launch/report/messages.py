"""The messages of a run, found in its timeline: which work of a stage sent one, and which work it started.

```
stage 0    forward 7 | send ─┐            ┌─► sg 7         activations go down: to the forward,
stage 1                      └─► forward 7 | backward 7 | send   targets up: to what learns from them
```
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from launch.report.timeline import Span, Timeline, spans

Row = Mapping[str, Any]

ACTIVATION, TARGET = "activation", "target gradient"


class Transfer(NamedTuple):
    """One message between neighbouring stages; times in microseconds of the timeline."""

    kind: str
    source: int
    target: int
    step: int
    sent: float
    """Start of the sending."""
    used: float
    """Start of the work that the message began."""


def transfers(timeline: Timeline) -> Iterator[Transfer]:
    """Yield the messages of which both ends are in the timeline, link by link."""
    rows = sorted(timeline, key=lambda row: int(row["stage"]))
    for source, target, kind, after, begun in _links(rows):
        work = _works(target)
        for step, sent in _sends(source, after).items():
            done = (span for name in begun for span in work.get((name, step), ()))
            started = next((span for span in done if span.start >= sent.start), None)
            if started is not None:
                stages = int(source["stage"]), int(target["stage"])
                yield Transfer(kind, *stages, step, sent.start, started.start)


def _links(rows: Timeline) -> Iterator[tuple[Row, Row, str, str, tuple[str, ...]]]:
    """Yield (sender, receiver, kind, work before the sending, work after the receipt) of all links."""
    for upper, lower in itertools.pairwise(rows):
        yield upper, lower, ACTIVATION, "forward", ("forward",)
        yield lower, upper, TARGET, "backward", ("sg", "backward")


def _sends(row: Row, after: str) -> dict[int, Span]:
    """Return by step the sending that follows this kind of work."""
    found: dict[int, Span] = {}
    for before, span in itertools.pairwise(spans(row)):
        if span.name == "send" and (before.name, before.step) == (after, span.step):
            found.setdefault(span.step, span)
    return found


def _works(row: Row) -> dict[tuple[str, int], list[Span]]:
    """Return the events by kind and step."""
    found: dict[tuple[str, int], list[Span]] = {}
    for span in spans(row):
        found.setdefault((span.name, span.step), []).append(span)
    return found
