"""What all pictures have in common: size, colours, axes and curves."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

PathLike = str | os.PathLike[str]

DPI = 100
SECONDS = "seconds of training (a dot per evaluation)"
BLUE, ORANGE = "#3f78c9", "#e8833a"
INK, FAINT, GRID = "#1f2733", "#6b7684", "#e3e7ec"


def new_figure(width: int, height: int, title: str = "") -> Figure:
    """Return a white figure of so many pixels, with a title above all axes."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    if title:
        figure.set_layout_engine("constrained", w_pad=0.16, h_pad=0.12, wspace=0.02)
        figure.suptitle(textwrap.fill(title, width // 13), fontsize=15, fontweight="bold", color=INK)
    return figure


def two_panels(title: str, height: int = 480) -> tuple[Figure, tuple[Axes, Axes]]:
    """Return a figure 1200 pixels wide with a title and two axes beside each other."""
    figure = new_figure(1200, height, title)
    left, right = figure.subplots(1, 2)
    style_axes(left)
    style_axes(right)
    return figure, (left, right)


def style_axes(axes: Axes, grid: bool = True) -> None:
    """Leave out the frame above and at the right, and draw a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelcolor=INK)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=GRID, linewidth=0.8)


def logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers at 1, 2, 5, 10 ... or closer where few of them fit."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:,.6g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def curve(
    axes: Axes,
    records: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    color: str,
    label: str,
    marker: str = "o",
) -> None:
    """Draw a line with a dot per record; records without the value are left out."""
    points = [(record[x], record[y]) for record in records if None not in (record.get(x), record.get(y))]
    if points:
        every = max(1, len(points) // 40)  # dots that touch would hide the line
        line = axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker, markevery=every)
        line[0].set(markersize=6.5, markeredgecolor="white", markeredgewidth=0.4)


def seconds_and_metric(axes: Axes, name: str) -> None:
    """Let the seconds begin at zero, and write an accuracy in per cent."""
    axes.set_xlim(left=0)
    if name == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
