"""Values of a run's records: where on an axis a record lies, and what happened since the one before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch.report.evaluation import metric_key, split_of
from launch.report.page.recorded_run import RecordedRun

Record = Mapping[str, Any]
AXES = ("seconds", "epochs", "samples")
"""What a curve may be drawn over."""


def evaluations(run: RecordedRun) -> list[Record]:
    """Return the records of evaluations; of a task over time, those of its epochs, with their scores flat."""
    if run.summary.get("evaluations"):
        return list(run.summary["evaluations"])
    return [_flat_scores(record) for record in run.summary.get("epochs", ())]


def _flat_scores(record: Record) -> Record:
    scores = record.get("validation")
    if not isinstance(scores, Mapping):
        return record
    return dict(record) | {f"validation_{name.replace(' ', '_')}": value for name, value in scores.items()}


def metric_of(run: RecordedRun) -> tuple[str, str]:
    """Return the metric's key in the records of evaluations, and its name: `test_accuracy`, `accuracy`."""
    records, name = evaluations(run), run.summary.get("metric_name")
    if name is not None:
        return metric_key(split_of(records), name), name
    last = records[-1] if records else {}
    scores = [key for key, value in last.items() if key.startswith("validation_") and _is_number(value)]
    key = scores[0] if scores else "longest_solved_length" if "longest_solved_length" in last else "loss"
    return key, key.removeprefix("validation_").replace("_", " ")


def loss_curve(run: RecordedRun) -> list[Record]:
    """Return records whose `recent_loss` is the training loss since the one before."""
    if any(line.get("recent_loss") is not None for line in run.lines):
        return [line for line in run.lines if line.get("recent_loss") is not None]
    return [dict(record) | {"recent_loss": record.get("loss")} for record in evaluations(run)]


def position(run: RecordedRun, axis: str) -> Callable[[Record], float | None]:
    """Return a function from a record to its place on one of `AXES`."""
    if axis == "seconds":
        return lambda record: record.get("seconds")
    per_epoch = steps_per_epoch(run)
    scale = 1.0 if axis == "epochs" else run.summary.get("dataset", {}).get("train")

    def place(record: Record) -> float | None:
        step = record.get("step", record.get("updates"))
        if step is None or not per_epoch or not scale:
            return None
        return step / per_epoch * scale

    return place


def steps_per_epoch(run: RecordedRun) -> float | None:
    """Return the training steps of an epoch; None where no evaluation shows it."""
    for record in evaluations(run):
        step = record.get("step", record.get("updates"))
        if step and record.get("epoch"):
            return step / record["epoch"]
    return None


def since_last(values: Sequence[float | None], weights: Sequence[float | None]) -> list[float | None]:
    """Return the mean of each stretch, from running means and how much each of them is the mean of.

    ```
    values    2.0   2.5   2.5        weights   10   20   40
    returned  2.0   3.0   2.5
    ```
    None where nothing was added, or where the counts began again.
    """
    means: list[float | None] = []
    total, weight = 0.0, 0.0
    for value, known in zip(values, weights, strict=True):
        if value is None or known is None:
            means.append(None)
            continue
        added = known - weight
        means.append((value * known - total) / added if added > 0 else None)
        total, weight = value * known, known
    return means


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
