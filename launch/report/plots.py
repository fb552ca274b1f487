"""The pictures of a run: who computed when, and how it learned."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from launch.report.tables import metric
from launch.report.timeline import (
    Interval,
    Span,
    Timeline,
    compute_intervals,
    layer_range,
    overlap,
    run_name,
    spans,
    steady_window,
)
from launch.report.validation import split_of

PathLike = str | os.PathLike[str]

DPI = 100
BARS = 1052
"""Width of the time axis in pixels."""
SECONDS = "seconds of training (a dot per evaluation)"
BLUE = "#3f78c9"
INK, FAINT, GRID = "#1f2733", "#6b7684", "#e3e7ec"

KINDS = {
    "forward": ("forward", "#3f78c9"),
    "backward": ("backward", "#e8833a"),
    "update": ("update", "#3d9e6d"),
    "sg": ("SG training", "#8e5fb8"),
    "head": ("auxiliary head", "#c9a227"),
    "send": ("send", "#566270"),
    "load": ("load batch", "#a8b7c7"),
    "evaluate": ("evaluate", "#c8b560"),
    "checkpoint": ("checkpoint", "#b0566f"),
    "wait": ("wait", "#e4e7eb"),
}
"""Kind of event: (name in the legend, colour)."""

# --- the timeline


def plot_timeline(
    timeline: Timeline, path: PathLike, summary: Mapping[str, Any] | None = None, steps: int = 8
) -> None:
    """One bar chart row per stage over about `steps` steady training steps; 1200 x (200 + 120 K) pixels.

    The numbers in the forward bars are training steps: at one instant the stages work on different ones.
    """
    count, window = len(timeline), steady_window(timeline, steps)
    height = 200 + 120 * count
    figure = Figure(figsize=(1200 / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((118 / 1200, 66 / height, BARS / 1200, (height - 168) / height))
    _style(axes, grid=False)
    axes.set_xlim(0, (window[1] - window[0]) / 1000 or 1.0)
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("milliseconds", color=FAINT)
    for position, row in enumerate(timeline):
        _draw_stage(axes, position, row, window)
        _name_stage(axes, position, row, window, summary or {})
    _number_forwards(axes, timeline, window)
    _head(figure, height, timeline, window, summary or {})
    figure.savefig(path, dpi=DPI)


def _draw_stage(axes: Axes, position: int, row: Mapping[str, Any], window: Interval) -> None:
    """The bars of one stage, cut to the window; short kinds are drawn over long ones."""
    low, high = window
    pixels_per_ms = BARS / max((high - low) / 1000, 1e-6)
    lane = (position - 0.33, 0.66)
    axes.broken_barh([(0, (high - low) / 1000)], lane, color="#f6f7f9", zorder=1)
    seen = [span for span in spans(row) if span.end > low and span.start < high]
    for order, (kind, (_, colour)) in enumerate(reversed(KINDS.items())):
        bars = [_bar(span, window) for span in seen if span.name == kind]
        # A white edge parts neighbours, but would hide a bar of a few pixels.
        edges = [0.7 if width * pixels_per_ms >= 5 else 0.0 for _, width in bars]
        axes.broken_barh(bars, lane, facecolor=colour, edgecolor="white", linewidths=edges, zorder=2 + order)


def _number_forwards(axes: Axes, timeline: Timeline, window: Interval) -> None:
    """Print the step into the forward bars; along the bars, or upwards when most are too narrow for it."""
    pixels_per_ms = BARS / max((window[1] - window[0]) / 1000, 1e-6)
    labels = []
    for position, row in enumerate(timeline):
        for span in spans(row):
            start, width = _bar(span, window)
            if span.name == "forward" and width > 0:
                labels.append((start + width / 2, position, width * pixels_per_ms, str(span.step)))
    tall, digit = 15.0, 9.7  # pixels of a bold digit in 10 points
    along = sum(pixels >= digit * len(text) + 3 for _, _, pixels, text in labels) >= 0.8 * len(labels)
    for middle, position, pixels, text in labels:
        if pixels >= (digit * len(text) + 3 if along else tall):
            label = axes.text(middle, position, text, ha="center", va="center_baseline", zorder=20)
            label.set(color="white", fontsize=10, fontweight="bold", rotation=0 if along else 90)
            label.set_rotation_mode("default" if along else "anchor")


def _bar(span: Span, window: Interval) -> Interval:
    """(start, width) of the part inside the window, in ms from its beginning."""
    start, end = max(span.start, window[0]), min(span.end, window[1])
    return (start - window[0]) / 1000, (end - start) / 1000


def _name_stage(
    axes: Axes, position: int, row: Mapping[str, Any], window: Interval, summary: Mapping[str, Any]
) -> None:
    """`stage 0`, its layers and how busy it is in this window, left of the bars."""
    index = int(row["stage"])
    layers = next((s.get("layers") for s in summary.get("stages", ()) if s["index"] == index), None)
    busy = sum(end - start for start, end in compute_intervals(row, window))
    share = f"{100 * busy / max(window[1] - window[0], 1e-3):.0f} % busy"
    below = [layer_range(layers)] if layers else []
    beside = axes.get_yaxis_transform()
    lines = [(f"stage {index}", INK, 12, "bold")] + [(t, FAINT, 9.5, "normal") for t in [*below, share]]
    for line, (text, colour, size, weight) in enumerate(lines):
        offset = (-10, 7.5 * (len(lines) - 1) - 15 * line)
        note = axes.annotate(text, (0, position), xytext=offset, xycoords=beside, textcoords="offset points")
        note.set(color=colour, fontsize=size, fontweight=weight, ha="right", va="center")


def _head(
    figure: Figure, height: int, timeline: Timeline, window: Interval, summary: Mapping[str, Any]
) -> None:
    """Title, one line that says what to look at, and the legend."""
    about = run_name(summary)
    title = "What every stage does while training" + (f" ({about})" if about else "")
    figure.text(20 / 1200, 1 - 30 / height, title, fontsize=15, fontweight="bold", color=INK, va="center")
    told = "numbers are training steps" if window[1] > window[0] else "no training was recorded"
    if len(timeline) > 1:
        told += (
            f"; at least two stages compute at once in {100 * overlap(timeline, window):.0f} % of this time"
        )
    figure.text(20 / 1200, 1 - 54 / height, told, fontsize=10.5, color=FAINT, va="center")
    kinds = {s.name for row in timeline for s in spans(row) if s.end > window[0] and s.start < window[1]}
    patches = [Patch(color=colour, label=label) for kind, (label, colour) in KINDS.items() if kind in kinds]
    if patches:
        legend = figure.legend(handles=patches, loc="center left", ncols=len(patches), frameon=False)
        legend.set_bbox_to_anchor((112 / 1200, 1 - 88 / height), figure.transFigure)
        for text in legend.get_texts():
            text.set(fontsize=10.5, color=INK)


# --- learning curves


def plot_curves(summary: Mapping[str, Any], path: PathLike) -> None:
    """Left the losses by epoch, right the metric against seconds with a dot per evaluation."""
    epochs, evaluations = summary["epochs"], summary["evaluations"]
    name, split = summary.get("metric_name", "accuracy"), split_of(evaluations)
    figure, (left, right) = two_panels(run_name(summary))
    curve(left, epochs, "epoch", "loss", color=BLUE, label="training")
    curve(left, evaluations, "epoch", f"{split}_loss", color=KINDS["backward"][1], label=split)
    left.set(title="loss", xlabel="epoch")
    left.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    if left.lines:
        left.legend(frameon=False)
    curve(right, evaluations, "seconds", f"{split}_accuracy", color=BLUE, label=name)
    right.set(xlabel=SECONDS)
    right.set_title(f"{split} {name}" + _last_value(evaluations, f"{split}_accuracy", name))
    seconds_and_metric(right, name)
    figure.savefig(path, dpi=DPI)


def _last_value(epochs: Sequence[Mapping[str, Any]], key: str, name: str) -> str:
    known = [record[key] for record in epochs if record.get(key) is not None]
    return f": {metric(known[-1], name, digits=2)} at the end" if known else ""


# --- common to all


def two_panels(title: str, height: int = 480) -> tuple[Figure, tuple[Axes, Axes]]:
    """A figure 1200 pixels wide with a title and two axes beside each other."""
    figure = Figure(figsize=(1200 / DPI, height / DPI), dpi=DPI, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.16, h_pad=0.12, wspace=0.02)
    figure.suptitle(title, fontsize=15, fontweight="bold", color=INK)
    left, right = figure.subplots(1, 2)
    _style(left)
    _style(right)
    return figure, (left, right)


def _style(axes: Axes, grid: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelcolor=INK)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=GRID, linewidth=0.8)


def curve(
    axes: Axes,
    records: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    color: str,
    label: str,
    marker: str = "o",
) -> None:
    """A line with a dot per record; records without the value are left out."""
    points = [(record[x], record[y]) for record in records if None not in (record.get(x), record.get(y))]
    if points:
        every = max(1, len(points) // 40)  # dots that touch would hide the line
        line = axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker, markevery=every)
        line[0].set(markersize=6.5, markeredgecolor="white", markeredgewidth=0.4)


def seconds_and_metric(axes: Axes, name: str) -> None:
    """Seconds from zero, and an accuracy in per cent."""
    axes.set_xlim(left=0)
    if name == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
