"""A run's timeline as a Chrome trace, for https://ui.perfetto.dev or chrome://tracing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from launch.report.text import layer_range, run_name
from launch.report.timeline import Span, Timeline, spans

Row = Mapping[str, Any]

_CATEGORY = {"send": "transport", "wait": "idle", "evaluate": "evaluation", "checkpoint": "storage"}


def chrome_trace(timeline: Timeline, summary: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the timeline as trace events, a row per stage; `summary` names the run and its layers."""
    about = summary or {}
    events = [_metadata("process_name", 0, name=f"dni_async {run_name(about)}".strip())]
    for row in timeline:
        tid = int(row["stage"])
        events.append(_metadata("thread_name", tid, name=_row_name(tid, about)))
        events.append(_metadata("thread_sort_index", tid, sort_index=tid))
    for row in timeline:
        events.extend(_complete(int(row["stage"]), span) for span in spans(row))
    events.extend(_flows(timeline))
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


def _flows(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """Yield arrows from the sending of each message to the work that it starts at the neighbour.

    ```
    stage 0    forward 7 | send ─┐            ┌─► sg 7         activations go down: to the forward,
    stage 1                      └─► forward 7 | backward 7 | send   targets up: to what learns from them
    ```
    """
    rows = sorted(timeline, key=lambda row: int(row["stage"]))
    number = 0
    for source, target, after, kinds in _links(rows):
        work = _works(target)
        for step, sent in _sends(source, after).items():
            done = (span for kind in kinds for span in work.get((kind, step), ()))
            started = next((span for span in done if span.start >= sent.start), None)
            if started is None:
                continue
            number += 1
            message = "activation" if after == "forward" else "target gradient"
            common = {"name": message, "cat": "message", "id": number, "pid": 0}
            yield common | {"ph": "s", "ts": sent.start, "tid": int(source["stage"])}
            yield common | {"ph": "f", "bp": "e", "ts": started.start, "tid": int(target["stage"])}


def _links(rows: Timeline) -> Iterator[tuple[Row, Row, str, tuple[str, ...]]]:
    """Yield (sender, receiver, work before the sending, work after the receipt) of all links."""
    for upper, lower in itertools.pairwise(rows):
        yield upper, lower, "forward", ("forward",)
        yield lower, upper, "backward", ("sg", "backward")


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
