"""A run's timeline as a Chrome trace, for https://ui.perfetto.dev or chrome://tracing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launch.report.messages import transfers
from launch.report.text import layer_range, run_name
from launch.report.timeline import Span, Timeline, spans

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
    """Yield arrows from the sending of each message to the work that it starts at the neighbour."""
    for number, message in enumerate(transfers(timeline), 1):
        common = {"name": message.kind, "cat": "message", "id": number, "pid": 0}
        yield common | {"ph": "s", "ts": message.sent, "tid": message.source}
        yield common | {"ph": "f", "bp": "e", "ts": message.used, "tid": message.target}


def read_chrome_trace(trace: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the timeline that `chrome_trace` made these events of."""
    rows: dict[int, list[list[Any]]] = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "M" and event["name"] == "thread_name" and event.get("pid") == 0:
            rows.setdefault(int(event["tid"]), [])
        elif event["ph"] == "X" and "step" in event.get("args", {}) and event.get("pid") == 0:
            span = [event["name"], event["ts"], event["dur"], event["args"]["step"]]
            rows.setdefault(int(event["tid"]), []).append(span)
    return [{"stage": stage, "events": events} for stage, events in sorted(rows.items())]
