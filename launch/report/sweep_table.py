"""The tables of a sweep: samples/s of engines by the first varied setting, and a row for each setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch.local.wan import Wire
from launch.report.comparison_rows import Row, Run, make_row, median
from launch.report.comparison_table import measured, per_stage, spread
from launch.report.evaluation import metric_key
from launch.report.grid import Column, Grid, column
from launch.report.links import both_directions
from launch.report.text import NOTHING, metric, number, one_line, percent

Runs = Sequence[tuple[Mapping[str, str], str, Sequence[Run]]]
"""Setting, engine, and the runs of both."""


def sweep_rows(runs: Runs) -> list[Row]:
    """Return a row for each setting and engine: that of a comparison, with the setting, the messages in
    flight, the mean staleness of stage 0, and the links of the first run.

    `share` is the throughput over that of the same engine with the first value of the first setting.
    """
    rows = []
    for setting, engine, many in runs:
        row: Row = {"setting": dict(setting)} | make_row(engine, many)
        if "error" not in row:
            row["in_flight"] = median([run.get("in_flight") for run in many])
            row["staleness"] = median([run["stages"][0].get("staleness_mean") for run in many])
            row["links"] = many[0].get("links", [])
        rows.append(row)
    for row in rows:
        base = next(r for r in rows if _without_first(r) == _without_first(row)).get("samples_per_s")
        row["share"] = row["samples_per_s"] / base if base and row.get("samples_per_s") else None
    return rows


def _without_first(row: Row) -> tuple[Any, ...]:
    """What rows share that differ in the first varied setting only."""
    return (row["engine"], *list(row["setting"].values())[1:])


def shown_value(name: str, value: str) -> str:
    """Return a value as tables show it: a wire by its round trip and rate, a task of one's own without its
    module, all else as it was given."""
    if name == "task":
        return value.rpartition(":")[2]
    if name != "wan":
        return value
    wire = Wire.parse(value)
    return f"{wire.round_trip_ms:g} ms, {wire.mbit_per_s:g} Mbit/s"


def throughput_grid(rows: Sequence[Row], title: str) -> Grid:
    """Return samples/s with a column for each value of the first setting, and the share of the first one."""
    first, values = _first_setting(rows)

    def cell(row: Row) -> str:
        beside = row["setting"][first] != values[0] and first != "task"  # tasks cannot be compared
        return number(row["samples_per_s"]) + (f" ({percent(row['share'])})" if beside else "")

    return _by_first_setting(rows, f"{title}: throughput", "samples/s at\n", cell)


def metric_grid(rows: Sequence[Row], title: str) -> Grid:
    """Return the test metric with a column for each value of the first setting."""

    def cell(row: Row) -> str:
        shown = _test_metric(row)
        return shown if row["metric_name"] == "accuracy" else f"{shown} ({row['metric_name']})"

    return _by_first_setting(rows, f"{title}: test metric", "", cell)


def _first_setting(rows: Sequence[Row]) -> tuple[str, list[str]]:
    """Return the name of the first setting, and its values."""
    first = next(iter(rows[0]["setting"]))
    return first, list(dict.fromkeys(row["setting"][first] for row in rows))


def _by_first_setting(rows: Sequence[Row], title: str, head: str, cell: Callable[[Row], str]) -> Grid:
    """Return a grid with a line for each engine with the other settings."""
    first, values = _first_setting(rows)
    lines = list(dict.fromkeys(map(_without_first, rows)))
    cells = {(_without_first(row), row["setting"][first]): row for row in rows}

    def shown(line: tuple[Any, ...], value: str) -> str:
        row = cells[line, value]
        return "failed" if row.get("error") else cell(row)

    columns = [column("engine", lines, lambda line: str(line[0]), left=True)]
    for i, name in enumerate(list(rows[0]["setting"])[1:], 1):
        columns.append(Column(head=name, cells=[shown_value(name, line[i]) for line in lines]))
    for value in values:
        name = f"{head}{first} {shown_value(first, value)}"
        columns.append(Column(head=name, cells=[shown(line, value) for line in lines]))
    return Grid(title=title, columns=columns)


def _test_metric(row: Mapping[str, Any]) -> str:
    return metric(row[metric_key("test", row["metric_name"])], row["metric_name"])


def sweep_grid(rows: Sequence[Row], title: str) -> Grid:
    """Return one row per setting and engine; one that failed has its reason below the table."""
    names = {row["metric_name"] for row in rows if not row.get("error")}
    metric_name = next(iter(names)) if len(names) == 1 else "metric"

    def min_max(row: Mapping[str, Any]) -> str:
        name = row["metric_name"]
        return spread(row, metric_key("test", name), lambda value: metric(value, name))

    columns = [
        *(
            Column(head=name, cells=[shown_value(name, row["setting"][name]) for row in rows])
            for name in rows[0]["setting"]
        ),
        column("engine", rows, lambda row: str(row["engine"]), left=True),
        column("samples/s", rows, lambda row: "failed" if row.get("error") else number(row["samples_per_s"])),
        measured("samples/s\nmin-max", rows, lambda row: spread(row, "samples_per_s", number), spare=True),
        measured("micro\nbatches", rows, lambda row: " / ".join(map(str, row["micro_batches"])) or NOTHING),
        measured("in\nflight", rows, lambda row: number(row["in_flight"])),
        measured("staleness\nof stage 0", rows, lambda row: number(row["staleness"], 1)),
        measured("sent MB per step\ndown / up", rows, lambda row: _first_link(row, "bytes_per_step")),
        measured("link used\ndown / up", rows, lambda row: _first_link(row, "utilisation")),
        measured(
            "utilisation\nper stage", rows, lambda row: per_stage(row["utilisation"], percent), left=True
        ),
        measured(f"test\n{metric_name}", rows, _test_metric),
        measured(f"{metric_name}\nmin-max", rows, min_max),
    ]
    failed = [f"{row['engine']} failed: {one_line(row['error'])}" for row in rows if row.get("error")]
    notes = list(dict.fromkeys(note for row in rows for note in row.get("notes", ())))
    return Grid(title=title, columns=columns, notes=[*failed, *notes]).without_empty_columns()


def _first_link(row: Mapping[str, Any], key: str) -> str:
    """Return what stage 0 sends to stage 1 and what comes back, such as `1.05 / 1.02`."""
    return both_directions(key, **row["links"][0][key]) if row["links"] else NOTHING
