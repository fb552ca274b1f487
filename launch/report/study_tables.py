"""The tables of a study: metric and staleness by the varied setting, a line for each rule."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from launch.report.grid import Column, Grid
from launch.report.text import NOTHING, metric

Result = dict[str, Any]
"""One run: label, value of the varied setting, seed, test_metric, test_loss, staleness ..."""


def study_grids(results: Sequence[Result], vary: str, metric_name: str, task: str) -> list[Grid]:
    """Return the table of the metric, means over the seeds, and that of its spread and the staleness."""
    name = vary.partition("=")[0]
    seeds = len({result["seed"] for result in results})
    of = f"mean of {seeds} seeds" if seeds > 1 else "one seed"

    def mean(many: Sequence[Result]) -> str:
        return _shown(statistics.mean(r["test_metric"] for r in many), metric_name)

    def spread(many: Sequence[Result]) -> str:
        values = sorted(r["test_metric"] for r in many)
        return f"{_shown(values[0], metric_name)} to {_shown(values[-1], metric_name)}"

    def late(many: Sequence[Result]) -> str:
        first = [r["staleness"][0] for r in many if r["staleness"]]
        return f"{statistics.mean(first):.1f}" if first else NOTHING

    grids = [
        _grid(results, f"{task}: test {metric_name} by {name}, {of}", name, mean),
        _grid(results, f"{task}: mean staleness of stage 0, in updates", name, late),
    ]
    if seeds > 1:
        grids.insert(1, _grid(results, f"{task}: lowest and highest of the seeds", name, spread))
    return grids


def groups(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """Return the runs by label and by value of the varied setting."""
    found: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        found.setdefault(result["label"], {}).setdefault(result["value"], []).append(result)
    return found


def values_of(results: Sequence[Result]) -> list[str]:
    """Return the values of the varied setting, in the order of their first run, numbers by size."""
    values = dict.fromkeys(result["value"] for result in results)
    return sorted(values, key=lambda value: (not value.isdigit(), int(value) if value.isdigit() else 0))


def _grid(results: Sequence[Result], title: str, name: str, cell: Callable[[Sequence[Result]], str]) -> Grid:
    lines, values = groups(results), values_of(results)
    columns = [Column(head="rule", cells=list(lines), left=True)]
    for value in values:
        cells = [cell(by_value[value]) if value in by_value else NOTHING for by_value in lines.values()]
        columns.append(Column(head=f"{name} {value}", cells=cells))
    return Grid(title=title, columns=columns)


def _shown(value: float, name: str) -> str:
    return metric(value, name, 2) if name == "accuracy" else f"{value:.3f}"
