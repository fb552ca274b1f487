"""The picture of a sweep: throughput by the first varied setting, and the metric against staleness."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import PercentFormatter

from launch.report.comparison_plot import row_styles
from launch.report.comparison_rows import Row
from launch.report.evaluation import metric_key
from launch.report.figure import DPI, PathLike, logarithmic, two_panels
from launch.report.sweep_table import shown_value

Line = tuple[str, ...]


def plot_sweep(rows: Sequence[Row], path: PathLike, title: str, metric_name: str) -> None:
    """Draw a line for each engine and each combination of the settings but the first.

    Engines without stale gradients stand at 0 in the right panel.
    """
    figure, (left, right) = two_panels(title)
    first = next(iter(rows[0]["setting"]))
    values = list(dict.fromkeys(row["setting"][first] for row in rows))
    key = metric_key("test", metric_name)
    lines: dict[Line, list[Row]] = {}
    for row in rows:
        if not row.get("error"):
            others = [f"{k} {shown_value(k, v)}" for k, v in list(row["setting"].items())[1:]]
            lines.setdefault((str(row["engine"]), *others), []).append(row)
    styles = row_styles([{"engine": line[0]} for line in lines])
    for (line, many), (colour, marker) in zip(lines.items(), styles, strict=True):
        label = ", ".join(line)
        places = [values.index(row["setting"][first]) for row in many]
        left.plot(places, [row["samples_per_s"] for row in many], color=colour, marker=marker, label=label)
        stale = sorted((row["staleness"] or 0.0, row[key]) for row in many if row.get(key) is not None)
        right.plot([x for x, _ in stale], [y for _, y in stale], color=colour, marker=marker, label=label)
    left.set_xticks(range(len(values)), [shown_value(first, value).replace(", ", "\n") for value in values])
    logarithmic(left)
    left.set(title="samples/s", xlabel=first)
    most = max((row["staleness"] or 0.0 for many in lines.values() for row in many), default=0.0)
    ticks = [0, *(2**i for i in range(8) if 2**i <= max(1.0, 2 * most))]
    right.set_xscale("symlog", linthresh=1.0)
    right.set_xticks(ticks, [str(tick) for tick in ticks])
    right.set(title=f"test {metric_name}", xlabel="mean staleness of stage 0 in updates", xlim=(-0.1, None))
    if metric_name == "accuracy":
        right.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    if lines:
        right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    figure.savefig(path, dpi=DPI)
