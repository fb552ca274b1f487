"""How runs learned: metric and loss, over seconds, epochs and samples."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from launch.report.evaluation import split_of
from launch.report.page.figures import colour, figure, line
from launch.report.page.recorded_run import RecordedRun
from launch.report.page.records import evaluations, loss_curve, metric_of, position

TITLES = {"seconds": "seconds of training", "epochs": "epochs", "samples": "samples trained"}


def metric_figure(runs: Sequence[RecordedRun], axis: str, name: str) -> go.Figure:
    """Return the metric called `name` at the evaluations of every run that has it."""
    made, last = figure("", TITLES[axis]), []
    for number, run in enumerate(runs):
        records, (key, own), place = evaluations(run), metric_of(run), position(run, axis)
        if own != name:
            continue
        values = [record.get(key) for record in records]
        last += [value for value in values if value is not None][-1:]
        markers = {"mode": "lines+markers" if len(records) <= 60 else "lines", "marker": {"size": 7}}
        line(made, list(map(place, records)), values, run.name, colour(number), **markers)
    if name == "accuracy" and last:
        made.update_yaxes(tickformat=".1%", range=_near(last, made))
    return made.update_layout(showlegend=True)


def _near(last: Sequence[float], made: go.Figure) -> list[float]:
    """Return the range from somewhat below the worst final accuracy to above the best of all."""
    below = max(0.03, 1.2 * (max(last) - min(last)))
    best = max(float(trace.y.max()) for trace in made.data)
    return [min(last) - below, best + 0.1 * below]


def loss_figure(runs: Sequence[RecordedRun], axis: str) -> go.Figure:
    """Return the training loss of every run, and dotted the loss of its evaluations."""
    made = figure("", TITLES[axis])
    made.update_yaxes(type="log")
    for number, run in enumerate(runs):
        place, records, training = position(run, axis), evaluations(run), loss_curve(run)
        losses = [record["recent_loss"] for record in training]
        group = {"legendgroup": str(number)}
        name = "training" if len(runs) == 1 else run.name
        line(made, list(map(place, training)), losses, name, colour(number), width=1.6, **group)
        split = split_of(records)
        tested = [record.get(f"{split}_loss") for record in records]
        name, dotted = split if len(runs) == 1 else f"{run.name}, {split}", {"dash": "dot"}
        line(
            made,
            list(map(place, records)),
            tested,
            name,
            colour(number),
            line=dotted,
            showlegend=len(runs) == 1,
            **group,
        )
    return made.update_layout(showlegend=True)
