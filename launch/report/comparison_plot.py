"""The picture of a comparison: how fast each engine is, and how it learned in that time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from launch.engines.registry import ENGINES, plot_styles
from launch.report.comparison_table import Row
from launch.report.evaluation import metric_key, split_of
from launch.report.figure import DPI, FAINT, INK, SECONDS, PathLike, curve, seconds_and_metric, two_panels
from launch.report.text import number, percent, times

_OTHERS = (
    ("#7b5ea7", "h"),
    ("#5b7f2b", "d"),
    ("#39556e", ">"),
    ("#a6427a", "4"),
    ("#2f9c95", "1"),
    (INK, "H"),
)
"""Styles of engines without one of their own, and of a second row of the same engine."""


def plot_compare(rows: Sequence[Row], path: PathLike, title: str = "", metric_name: str = "accuracy") -> None:
    """Draw the speed-up of each engine with its spread at the left, its metric against seconds at the right.

    An engine with several runs shows the curve of the one with the median throughput.
    """
    about = f": {title}" if title else ""
    figure, (left, right) = two_panels(f"Engines side by side{about}", max(480, 180 + 44 * len(rows)))
    styles = list(row_styles(rows))
    _bars(left, rows, [colour for colour, _ in styles])
    curves = [(_median_run(row) or {}).get("evaluations", ()) for row in rows]
    split = split_of([record for records in curves for record in records])
    key = metric_key(split, metric_name)
    for row, records, (colour, marker) in zip(rows, curves, styles, strict=True):
        curve(right, records, "seconds", key, colour, str(row["engine"]), marker)
    right.set(title=f"{split} {metric_name}", xlabel=SECONDS)
    seconds_and_metric(right, metric_name)
    if metric_name == "accuracy":
        _zoom(right, rows)
    _draw_until(right, rows)
    if right.lines:
        right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    figure.savefig(path, dpi=DPI)


def _bars(axes: Axes, rows: Sequence[Row], colours: Sequence[str]) -> None:
    """Draw horizontal bars of the speed-up, or of the throughput where nothing is there to compare with.

    The first row is on top; an engine that failed has the word instead of a bar."""
    relative = any(row.get("speedup") for row in rows)
    key = "speedup" if relative else "samples_per_s"
    values = [None if row.get("error") else row.get(key) for row in rows]
    spreads = [None if row.get("error") else row.get(f"{key}_spread") for row in rows]
    axes.barh(range(len(rows)), [value or 0.0 for value in values], color=colours, height=0.62, zorder=2)
    for position, (row, value, spread) in enumerate(zip(rows, values, spreads, strict=True)):
        low, high = spread or (value or 0.0, value or 0.0)
        if low < high:
            axes.plot([low, high], [position, position], color=INK, linewidth=1.4, zorder=4, marker="|")
        rate = f"{number(row.get('samples_per_s'))}/s"
        label = "failed" if row.get("error") else f"{times(value)}   {rate}" if relative else rate
        note = axes.annotate(label, (high, position), xytext=(8, 0), textcoords="offset points")
        note.set(color=INK, fontsize=10, va="center", zorder=5, backgroundcolor="white")
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    least = 1.0 if relative else 0.0
    ends = [max(spread or [value or 0.0]) for value, spread in zip(values, spreads, strict=True)]
    axes.set_xlim(0, 1.5 * max([least, *ends]) or 1)
    lines = "line: all runs" if any(spread and spread[0] < spread[1] for spread in spreads) else ""
    if relative:
        axes.axvline(1.0, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
        lines = f"dashed: 1 x; {lines}".removesuffix("; ")
    axes.set(title="speed-up" if relative else "throughput")
    axes.set_xlabel(f"{'speed-up in ' if relative else ''}samples/s" + (f" ({lines})" if lines else ""))
    axes.grid(False, axis="y")


def _label(row: Row) -> str:
    engine, count = ENGINES.get(_engine(row)), row.get("stages") or 1
    parts = "replicas" if engine and not engine.cut else "stages"
    return str(row["engine"]) + (f"\n{count} {parts}" if count > 1 else "")


def _engine(row: Row) -> str:
    """Return the engine of a row, which may be called by its settings, too."""
    return str(row["engine"]).partition(" ")[0]


def row_styles(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield the style of each row: the engine's own, and another one for a second row of the same engine."""
    used: set[tuple[str, str]] = set()
    known = plot_styles()
    for row in rows:
        own = known.get(_engine(row))
        style = own if own and own not in used else next((o for o in _OTHERS if o not in used), _OTHERS[-1])
        used.add(style)
        yield style


def _median_run(row: Row) -> Mapping[str, Any] | None:
    """Return the run with the median throughput, of an even number the slower one of the middle."""
    runs = sorted(row.get("runs", ()), key=lambda run: run["samples_per_s"] or 0.0)
    return runs[(len(runs) - 1) // 2] if runs else None


def _zoom(axes: Axes, rows: Sequence[Row]) -> None:
    """Show the accuracies from somewhat below the worst final one to above the best of all."""
    final = [row["test_accuracy"] for row in rows if row.get("test_accuracy") is not None]
    if final:
        below = max(0.03, 1.2 * (max(final) - min(final)))
        best = max([*final, *(float(np.max(line.get_ydata())) for line in axes.lines)])
        axes.set_ylim(max(0.0, min(final) - below), best + 0.1 * below)


def _draw_until(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the accuracy that --until asked for."""
    until = next((row["until"] for row in rows if row.get("until")), None)
    if until:
        axes.axhline(until["accuracy"], color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, until["accuracy"] - 0.01), max(high, until["accuracy"] + 0.01))
        label, place = f"until {percent(until['accuracy'], 1)}", (0, until["accuracy"])
        note = axes.annotate(label, place, xytext=(4, 3), textcoords="offset points")
        note.set(color=FAINT, fontsize=9.5)
