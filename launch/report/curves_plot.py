"""The picture of how a run learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from launch.report.evaluation import metric_key, split_of
from launch.report.figure import BLUE, DPI, ORANGE, SECONDS, PathLike, curve, seconds_and_metric, two_panels
from launch.report.text import metric, run_name


def plot_curves(summary: Mapping[str, Any], path: PathLike) -> None:
    """Draw the losses by epoch at the left, and the metric against seconds at the right.

    The training loss has a point per record (see `TrainingLoss`), without a dot.
    """
    epochs, evaluations = summary["epochs"], summary["evaluations"]
    name, split = summary.get("metric_name", "accuracy"), split_of(evaluations)
    key = metric_key(split, name)
    figure, (left, right) = two_panels(run_name(summary))
    steps = summary.get("losses")
    curve(left, steps or epochs, "epoch", "loss", color=BLUE, label="training", marker="" if steps else "o")
    curve(left, evaluations, "epoch", f"{split}_loss", color=ORANGE, label=split)
    left.set(title="loss", xlabel="epoch")
    left.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    if left.lines:
        left.legend(frameon=False)
    curve(right, evaluations, "seconds", key, color=BLUE, label=name)
    right.set(xlabel=SECONDS)
    right.set_title(f"{split} {name}" + _last_value(evaluations, key, name))
    seconds_and_metric(right, name)
    figure.savefig(path, dpi=DPI)


def _last_value(records: Sequence[Mapping[str, Any]], key: str, name: str) -> str:
    known = [record[key] for record in records if record.get(key) is not None]
    return f": {metric(known[-1], name, digits=2)} at the end" if known else ""
