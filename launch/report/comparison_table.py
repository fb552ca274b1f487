"""The tables of a comparison: speed and learning in one, memory in the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch.local.wan import Wire
from launch.report.evaluation import metric_key
from launch.report.grid import Column, Grid, column
from launch.report.text import (
    NOTHING,
    conditions,
    epochs,
    megabytes,
    metric,
    number,
    one_line,
    percent,
    times,
)
from tasks.base import Task

Row = Mapping[str, Any]


def compare_grid(rows: Sequence[Row], metric_name: str = "accuracy", title: str = "") -> Grid:
    """Return one row per engine; one that failed says so, with the reason below the table.

    Columns without a value (spread of a single run, time to an accuracy that was not asked for) are left out.
    """
    until = next((row["until"] for row in rows if row.get("until")), None)
    key = metric_key("test", metric_name)

    def plain_metric(value: float) -> str:
        return metric(value, metric_name).removesuffix(" %")  # the column beside it has the sign

    columns = [
        _engines(rows),
        column("stages", rows, lambda row: number(row.get("stages"))),
        measured("micro\nbatches", rows, lambda row: " / ".join(map(str, row["micro_batches"])) or NOTHING),
        column("samples/s", rows, lambda row: "failed" if row.get("error") else number(row["samples_per_s"])),
        measured("samples/s\nmin-max", rows, lambda row: spread(row, "samples_per_s", number)),
        measured("speed-up", rows, lambda row: times(row.get("speedup"))),
        measured(
            "utilisation\nper stage", rows, lambda row: per_stage(row.get("utilisation"), percent), left=True
        ),
        measured(f"test\n{metric_name}", rows, lambda row: metric(row.get(key), metric_name)),
        measured(f"{metric_name}\nmin-max", rows, lambda row: spread(row, key, plain_metric), spare=True),
        measured("best\nepoch", rows, lambda row: epochs(row.get("best_epoch"))),
        measured("seconds", rows, lambda row: number(row.get("train_s"), 1), spare=until is not None),
    ]
    grid = Grid(title=title, columns=columns, notes=_notes(rows)).without_empty_columns()
    if until:
        to = f"to {percent(until['accuracy'], 1)}"
        grid.columns.append(measured(f"seconds\n{to}", rows, _seconds_until))
        grid.columns.append(measured(f"epochs\n{to}", rows, lambda row: epochs(row["until"]["epochs"])))
    return grid


def memory_grid(rows: Sequence[Row], title: str = "") -> Grid:
    """Return the peak memory of each stage, in all and for batches other than the one at work."""
    held = "of it held for other batches (slots, pending, replay, stash)"
    columns = [
        _engines(rows),
        measured(
            "peak MB per stage", rows, lambda row: per_stage(row.get("peak_rss_bytes"), megabytes), left=True
        ),
        measured("GPU peak MB", rows, lambda row: per_stage(row.get("peak_gpu_bytes"), megabytes), left=True),
        measured(
            held, rows, lambda row: per_stage(row.get("held_bytes"), lambda b: megabytes(b, 1)), left=True
        ),
    ]
    return Grid(title=title, columns=columns).without_empty_columns()


def _engines(rows: Sequence[Row]) -> Column:
    return column("engine", rows, lambda row: str(row["engine"]), left=True)


def measured(head: str, rows: Sequence[Row], text: Callable[[Row], str], **kind: bool) -> Column:
    """Return a column in which an engine that failed has no value."""
    return column(head, rows, lambda row: NOTHING if row.get("error") else text(row), **kind)


def per_stage(values: Sequence[Any] | None, text: Callable[[Any], str]) -> str:
    """Return `97 % / 95 %`; `-` when no stage has a value."""
    cells = [text(value) for value in values or ()]
    return " / ".join(cells) if any(cell != NOTHING for cell in cells) else NOTHING


def spread(row: Row, key: str, text: Callable[[float], str]) -> str:
    """Return `12,031-12,488` when there are several runs."""
    both = row.get(f"{key}_spread")
    return "-".join(map(text, both)) if both and len(row["runs"]) > 1 else NOTHING


def _seconds_until(row: Row) -> str:
    until = row.get("until") or {}
    return "not reached" if until.get("seconds") is None else number(until["seconds"], 1)


def _notes(rows: Sequence[Row]) -> list[str]:
    """Return the lines below the table: failures, runs that missed --until, and notes of the runs."""
    notes = [f"{row['engine']} failed: {one_line(row['error'])}" for row in rows if row.get("error")]
    for row in rows:
        until = row.get("until")
        if until and 0 < until["reached"] < until["runs"]:
            reached = f"{until['reached']} of {until['runs']} runs"
            notes.append(f"{row['engine']} reached {percent(until['accuracy'], 1)} in {reached}")
    return notes + _notes_of_runs([row for row in rows if not row.get("error")])


def _notes_of_runs(rows: Sequence[Row]) -> list[str]:
    """Return the notes of the runs' summaries: plain where every engine has it, else with their names."""
    engines_of: dict[str, list[str]] = {}
    for row in rows:
        for note in row.get("notes", ()):
            engines_of.setdefault(note, []).append(str(row["engine"]))
    return [
        note if len(engines) == len(rows) else f"{', '.join(engines)}: {note}"
        for note, engines in engines_of.items()
    ]


def comparison_title(task: Task, runs: Mapping[str, Sequence[Row]], wan: str = "") -> str:
    """What was compared, on which data, and whether on devices or hosts that are only emulated."""
    done = [run for many in runs.values() for run in many if "error" not in run]
    parts = [task.name, f"{done[0]['dataset']['train']:,} training samples" if done else ""]
    parts += sorted({conditions(run) for run in done})
    parts += [str(Wire.parse(wan))] if wan else []
    return ", ".join(part for part in parts if part)
