"""The picture of a plan: speed-up against the number of stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import FuncFormatter, NullFormatter

from launch.engines.registry import plot_styles
from launch.planning.predict import Prediction
from launch.planning.profile import Profile
from launch.report.figure import DPI, INK, new_figure, style_axes
from launch.report.plan_table import plan_title

SIZE = 900, 640
"""Pixels."""


def plot_plan(predictions: Sequence[Prediction], path: Path, profile: Profile) -> None:
    """Draw the speed-up over backprop by stages on logarithmic axes, a line per engine and the ideal one."""
    figure = new_figure(*SIZE, plan_title(profile))
    axes, styles = figure.subplots(), plot_styles()
    style_axes(axes)
    counts = sorted({p.stages for p in predictions if p.stages > 1})
    axes.plot(counts, counts, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="ideal")
    for engine in dict.fromkeys(p.engine for p in predictions if p.stages > 1):
        points = [(p.stages, p.speedup) for p in predictions if p.engine == engine and p.speedup]
        if points:
            colour, marker = styles.get(engine, (INK, "H"))
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=engine)
    axes.axhline(1.0, color=styles["backprop"][0], linewidth=1, label="backprop")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xticks(counts)
    axes.set(xlabel="stages", ylabel="speed-up over backprop on one device")
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, dpi=DPI)
