"""The picture of a study: the metric against the varied setting, a line with its spread for each rule."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.ticker import PercentFormatter

from launch.report.comparison_plot import row_styles
from launch.report.figure import DPI, PathLike, new_figure, style_axes
from launch.report.study_tables import Result, groups, values_of


def plot_study(results: Sequence[Result], path: PathLike, vary: str, metric_name: str, task: str) -> None:
    """Draw means over the seeds with their lowest and highest; one value is drawn as a horizontal line."""
    name = vary.partition("=")[0]
    figure = new_figure(1000, 560, f"{task}: test {metric_name} by {name}")
    axes = figure.subplots()
    style_axes(axes)
    lines, values = groups(results), values_of(results)
    rules = {label: next(iter(by_value.values()))[0]["rule"] for label, by_value in lines.items()}
    styles = row_styles([{"engine": rule} for rule in rules.values()])
    for (label, by_value), (colour, marker) in zip(lines.items(), styles, strict=True):
        places = [values.index(value) for value in values if value in by_value]
        many = [[run["test_metric"] for run in by_value[values[place]]] for place in places]
        means = [statistics.mean(each) for each in many]
        if len(places) == 1:
            axes.axhline(means[0], color=colour, linewidth=1.2, linestyle="--", label=label)
            continue
        axes.plot(places, means, color=colour, marker=marker, label=label)
        axes.fill_between(places, [min(m) for m in many], [max(m) for m in many], color=colour, alpha=0.15)
    axes.set_xticks(range(len(values)), values)
    axes.set(xlabel=name, ylabel=f"test {metric_name}")
    if metric_name == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    figure.savefig(path, dpi=DPI)
