"""The picture of what every stage did when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from launch.report.figure import DPI, FAINT, INK, PathLike, new_figure, style_axes
from launch.report.text import layer_range, run_name
from launch.report.timeline import Interval, Span, Timeline, compute_intervals, overlap, spans, steady_window
from launch.report.timeline_kinds import KINDS

BARS = 1052
"""Width of the time axis in pixels."""


def plot_timeline(
    timeline: Timeline, path: PathLike, summary: Mapping[str, Any] | None = None, steps: int = 8
) -> None:
    """Draw a row of bars per stage over about `steps` steady training steps; 1200 x (200 + 120 K) pixels.

    The numbers in the forward bars are training steps: at one instant the stages work on different ones.
    """
    count, window = len(timeline), steady_window(timeline, steps)
    height = 200 + 120 * count
    figure = new_figure(1200, height)
    axes = figure.add_axes((118 / 1200, 66 / height, BARS / 1200, (height - 168) / height))
    style_axes(axes, grid=False)
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
    """Draw the bars of one stage, cut to the window; short kinds are drawn over long ones."""
    low, high = window
    pixels_per_ms = BARS / max((high - low) / 1000, 1e-6)
    lane = (position - 0.33, 0.66)
    axes.broken_barh([(0, (high - low) / 1000)], lane, color="#f6f7f9", zorder=1)
    seen = [span for span in spans(row) if span.end > low and span.start < high]
    for order, (kind, (_, colour)) in enumerate(reversed(KINDS.items())):
        bars = [_bar(span, window) for span in seen if span.name == kind]
        # A white edge separates neighbours, but would hide a bar of a few pixels.
        edges = [0.7 if width * pixels_per_ms >= 5 else 0.0 for _, width in bars]
        axes.broken_barh(bars, lane, facecolor=colour, edgecolor="white", linewidths=edges, zorder=2 + order)


def _number_forwards(axes: Axes, timeline: Timeline, window: Interval) -> None:
    """Print the step into the forward bars: along the bars, or upwards when most are too narrow."""
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
    """Return (start, width) of the part inside the window, in ms from its beginning."""
    start, end = max(span.start, window[0]), min(span.end, window[1])
    return (start - window[0]) / 1000, (end - start) / 1000


def _name_stage(
    axes: Axes, position: int, row: Mapping[str, Any], window: Interval, summary: Mapping[str, Any]
) -> None:
    """Write `stage 0`, its layers and how busy it is in this window to the left of the bars."""
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
    """Draw the title, a line of explanation and the legend."""
    about = run_name(summary)
    title = "What every stage does while training" + (f" ({about})" if about else "")
    figure.text(20 / 1200, 1 - 30 / height, title, fontsize=15, fontweight="bold", color=INK, va="center")
    explanation = "numbers are training steps" if window[1] > window[0] else "no training was recorded"
    if len(timeline) > 1:
        explanation += (
            f"; at least two stages compute at once in {100 * overlap(timeline, window):.0f} % of this time"
        )
    figure.text(20 / 1200, 1 - 54 / height, explanation, fontsize=10.5, color=FAINT, va="center")
    kinds = {s.name for row in timeline for s in spans(row) if s.end > window[0] and s.start < window[1]}
    patches = [Patch(color=colour, label=label) for kind, (label, colour) in KINDS.items() if kind in kinds]
    if patches:
        legend = figure.legend(handles=patches, loc="center left", ncols=len(patches), frameon=False)
        legend.set_bbox_to_anchor((112 / 1200, 1 - 88 / height), figure.transFigure)
        for text in legend.get_texts():
            text.set(fontsize=10.5, color=INK)
