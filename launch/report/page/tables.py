"""The tables of the page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from launch.report.grid import Grid, column
from launch.report.page.recorded_run import RecordedRun
from launch.report.page.records import evaluations, metric_of
from launch.report.text import epochs, metric, number

COLUMNS = {
    "samples/s": "throughput after warm-up, without evaluations",
    "speed-up": "over backprop in one process with one thread, where it is among the engines",
    "utilisation": "share of the time in which a stage computes",
    "staleness": "optimizer steps that a stage takes between a prediction and its target",
    "SG error": "|prediction - target| / |target| of the synthetic gradients in the last epoch",
    "SG cosine": "of predictions and targets in the last epoch: 1 is perfect, 0 is useless",
    "held": "memory for batches other than the one at work: slots, pending predictions, replay, stash",
}
"""What columns mean."""


def runs_grid(runs: Sequence[RecordedRun]) -> Grid:
    """Return one row per run."""
    names = list(dict.fromkeys(metric_of(run)[1] for run in runs))

    def last_metric(run: RecordedRun) -> str:
        key, name = metric_of(run)
        known = [record[key] for record in evaluations(run) if record.get(key) is not None]
        return metric(run.summary.get("final", {}).get(key) or (known[-1] if known else None), name)

    def last(run: RecordedRun, key: str) -> Any:
        records = evaluations(run)
        return records[-1].get(key) if records else None

    columns = [
        column("run", runs, lambda run: run.name, left=True),
        column("task", runs, lambda run: str(run.summary["task"]), left=True),
        column("engine", runs, lambda run: str(run.summary.get("engine") or run.summary["rule"]), left=True),
        column("stages", runs, lambda run: number(len(run.summary.get("stages", ())) or None)),
        column("seed", runs, lambda run: str(run.summary["seed"])),
        column("samples/s", runs, lambda run: number(run.summary.get("samples_per_s"))),
        column(" or ".join(names), runs, last_metric),
        column("training loss", runs, lambda run: number(last(run, "loss"), 4)),
        column("epochs", runs, lambda run: epochs(last(run, "epoch"))),
        column("seconds", runs, lambda run: number(run.summary.get("train_s"), 1)),
    ]
    return Grid(title="", columns=columns).without_empty_columns()


def table(grid: Grid) -> str:
    """Return the grid in HTML, with its title above and its notes below."""
    heads = "".join(f'<th class="{"left" if c.left else ""}">{_broken(c.head)}</th>' for c in grid.columns)
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="{"left" if c.left else ""}">{_broken(cell)}</td>'
            for c, cell in zip(grid.columns, cells, strict=True)
        )
        + "</tr>"
        for cells in zip(*(c.cells for c in grid.columns), strict=True)
    )
    title = f"<h3>{html.escape(grid.title)}</h3>" if grid.title else ""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in grid.notes)
    below = f'<ul class="notes">{notes}</ul>' if notes else ""
    body = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f'{title}<div class="wide">{body}</div>{below}'


def columns_explained(grids: Sequence[Grid]) -> str:
    """Return a list that says what the columns of these tables mean."""
    heads = " ".join(c.head.replace("\n", " ") for grid in grids for c in grid.columns)
    found = [(name, text) for name, text in COLUMNS.items() if name in heads]
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in found)
    return f"<details><summary>What the columns mean</summary><dl>{items}</dl></details>" if items else ""


def settings_table(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Return all settings; those that differ from `usual` come first and are marked."""
    changed = {name for name, value in settings.items() if _plain(value) != _plain(usual.get(name))}
    rows = []
    for name, value in sorted(settings.items(), key=lambda item: item[0] not in changed):
        mark = ' class="changed"' if name in changed else ""
        cells = f"<td class='left'>{html.escape(name.replace('_', '-'))}</td>"
        rows.append(f"<tr{mark}>{cells}<td class='left'>{html.escape(_plain(value))}</td></tr>")
    head = "<thead><tr><th class='left'>setting</th><th class='left'>value</th></tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_plain(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def _broken(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
