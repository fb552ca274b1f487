"""What every stage of a run reported over time: how busy it was, how late and how good its gradients were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from launch.report.page.figures import colour, figure, line
from launch.report.page.recorded_run import RecordedRun
from launch.report.page.records import since_last

Values = list[float | None]
Stage = Mapping[str, Any]
"""What one stage said in one record."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that stages report, by time."""

    title: str
    explanation: str
    values: Callable[[Sequence[Stage]], Values]
    """From the records of one stage, in order."""
    share: bool = False
    """Whether it is shown in per cent."""


def _utilisation(stages: Sequence[Stage]) -> Values:
    busy = [stage.get("busy_s") for stage in stages]
    total: Values = []
    for stage in stages:
        parts = [stage.get(key) for key in ("busy_s", "wait_s", "send_s", "load_s")]
        total.append(sum(part for part in parts if part is not None) if parts[0] is not None else None)
    shares = [None if b is None or not t else b / t for b, t in zip(busy, total, strict=True)]
    return [None if share is None else min(max(share, 0.0), 1.0) for share in since_last(shares, total)]


def _staleness(stages: Sequence[Stage]) -> Values:
    means = [stage.get("staleness_mean") for stage in stages]
    return since_last(means, [stage.get("targets_received") for stage in stages])


def _unanswered(stages: Sequence[Stage]) -> Values:
    """Return the batches sent downstream whose targets have not come; rules without targets have none."""
    return [
        float(stage["steps"] - stage["targets_received"]) if stage.get("targets_received") else None
        for stage in stages
    ]


def _own(key: str, scale: float = 1.0) -> Callable[[Sequence[Stage]], Values]:
    def values(stages: Sequence[Stage]) -> Values:
        return [None if stage.get(key) is None else stage[key] / scale for stage in stages]

    return values


def _held(stages: Sequence[Stage]) -> Values:
    keys = ("held_bytes", "slots_bytes")
    held = [sum(stage.get(key) or 0 for key in keys) / 1e6 for stage in stages]
    return list(held) if any(held) else [None] * len(stages)


QUANTITIES = (
    Quantity(
        "utilisation", "share of the time since the last record in which it computed", _utilisation, True
    ),
    Quantity(
        "SG error", "|prediction - target| / |target|, mean since the epoch began", _own("sg_relative_error")
    ),
    Quantity("SG cosine", "of predictions and targets, mean since the epoch began", _own("sg_cosine")),
    Quantity("staleness", "optimizer steps between a prediction and its target", _staleness),
    Quantity("batches in flight", "sent downstream, and their targets not here yet", _unanswered),
    Quantity("memory, MB", "resident memory of the process", _own("rss_bytes", 1e6)),
    Quantity("MB held for other batches", "most so far: slots, pending, replay, stash", _held),
)


def stage_figures(run: RecordedRun) -> list[tuple[Quantity, go.Figure]]:
    """Return a figure over the seconds, with a line per stage, of each quantity that any stage reported."""
    lines = [record for record in run.lines if record.get("stages")]
    seconds = [record["seconds"] for record in lines]
    count = max((len(record["stages"]) for record in lines), default=0)
    found = []
    for quantity in QUANTITIES:
        made = figure("", "seconds of training", height=230)
        for index in range(count):
            reports = [record["stages"][index] if index < len(record["stages"]) else {} for record in lines]
            line(made, seconds, quantity.values(reports), f"stage {index}", colour(index))
        if made.data:
            made.update_yaxes(rangemode="tozero", tickformat=".0%" if quantity.share else None)
            found.append((quantity, made.update_layout(showlegend=count > 1)))
    return found


def has_stages(run: RecordedRun) -> bool:
    """Return whether stages reported anything."""
    return any(row["events"] for row in run.timeline) or any(record.get("stages") for record in run.lines)
