"""The picture of a plan: speed-up against the number of stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from launch.planning.predict import Prediction
from launch.planning.profile import Profile
from launch.report.comparison_plot import STYLES
from launch.report.plan_table import plan_title
from launch.report.plots import DPI, GRID, INK

SIZE = 900, 640
"""Pixels."""


def plot_plan(predictions: Sequence[Prediction], path: Path, profile: Profile) -> None:
    """Speed-up over backprop by stages, both axes logarithmic, an engine a line, dashed the ideal one."""
    figure = Figure(figsize=(SIZE[0] / DPI, SIZE[1] / DPI), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    counts = sorted({p.stages for p in predictions if p.stages > 1})
    axes.plot(counts, counts, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="ideal")
    for engine in dict.fromkeys(p.engine for p in predictions if p.stages > 1):
        points = [(p.stages, p.speedup) for p in predictions if p.engine == engine and p.speedup]
        if points:
            colour, marker = STYLES[engine]
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=engine)
    axes.axhline(1.0, color=STYLES["backprop"][0], linewidth=1, label="backprop")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xticks(counts)
    axes.set(xlabel="stages", ylabel="speed-up over backprop on one device")
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    figure.suptitle(plan_title(profile), fontsize=12, fontweight="bold", color=INK)
    figure.savefig(path, dpi=DPI)
