"""What the tables of a comparison say: speed and learning in one, memory in the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch.report.tables import NOTHING, Column, Grid, epochs, metric, number, one_line, percent

Row = Mapping[str, Any]


def compare_grid(rows: Sequence[Row], metric_name: str = "accuracy", title: str = "") -> Grid:
    """One row per engine; one that failed says so, with the reason below the table.

    Columns that say nothing (spread of a single run, time to an accuracy that nobody asked for) are left
    out.
    """
    until = next((row["until"] for row in rows if row.get("until")), None)
    columns = [
        _engines(rows),
        Column(head="stages", cells=[number(row.get("stages")) for row in rows]),
        _column(rows, "micro\nbatches", _micro_batches),
        _column(rows, "samples/s", lambda row: number(row.get("samples_per_s"))),
        _column(rows, "samples/s\nmin-max", lambda row: _spread(row, "samples_per_s", number)),
        _column(rows, "speed-up", lambda row: speedup(row.get("speedup"))),
        _column(rows, "utilisation\nper stage", _utilisation, left=True),
        _column(rows, f"test\n{metric_name}", lambda row: metric(row.get("test_accuracy"), metric_name)),
        _column(
            rows,
            f"{metric_name}\nmin-max",
            lambda row: _spread(row, "test_accuracy", _plain(metric_name)),
            spare=True,
        ),
        _column(rows, "best\nepoch", lambda row: epochs(row.get("best_epoch"))),
        _column(rows, "seconds", lambda row: number(row.get("train_s"), 1), spare=until is not None),
    ]
    told = [c for c in columns if any(cell != NOTHING for cell in c.cells)]
    if until:
        to = f"to {percent(until['accuracy'], 1)}"
        told.append(_column(rows, f"seconds\n{to}", _seconds_until))
        told.append(_column(rows, f"epochs\n{to}", _epochs_until))
    speed = next(column for column in told if column.head == "samples/s")
    for i, row in enumerate(rows):
        if row.get("error"):
            speed.cells[i] = "failed"
    return Grid(title=title, columns=told, notes=_notes(rows))


def memory_grid(rows: Sequence[Row], title: str = "") -> Grid:
    """The most memory that each stage took, in all and for batches other than the one at work."""
    columns = [
        _engines(rows),
        _column(
            rows, "peak MB per stage", lambda row: per_stage(row.get("peak_rss_bytes"), _megabytes), left=True
        ),
        _column(
            rows,
            "of it held for other batches (slots, pending, replay, stash)",
            lambda row: per_stage(row.get("held_bytes"), lambda size: _megabytes(size, 1)),
            left=True,
        ),
    ]
    return Grid(title=title, columns=columns)


def _engines(rows: Sequence[Row]) -> Column:
    return Column(head="engine", cells=[str(row["engine"]) for row in rows], left=True)


def _column(rows: Sequence[Row], head: str, text: Callable[[Row], str], **kind: bool) -> Column:
    return Column(head=head, cells=[NOTHING if row.get("error") else text(row) for row in rows], **kind)


def speedup(value: float | None) -> str:
    """`1.82 x`."""
    return NOTHING if value is None else f"{value:.2f} x"


def per_stage(values: Sequence[Any] | None, text: Callable[[Any], str]) -> str:
    """`97 % / 95 %`; nothing where no stage says anything."""
    cells = [text(value) for value in values or ()]
    return " / ".join(cells) if any(cell != NOTHING for cell in cells) else NOTHING


def _megabytes(size: int | None, digits: int = 0) -> str:
    return number(None if size is None else size / 1e6, digits)


def _plain(metric_name: str) -> Callable[[float], str]:
    """A metric without its per cent sign: the column beside it has that."""
    return lambda value: metric(value, metric_name).removesuffix(" %")


def _spread(row: Row, key: str, text: Callable[[float], str]) -> str:
    """`12,031-12,488`, of several runs."""
    spread = row.get(f"{key}_spread")
    return "-".join(map(text, spread)) if spread and len(row["runs"]) > 1 else NOTHING


def _utilisation(row: Row) -> str:
    return per_stage(row.get("utilisation"), percent)


def _micro_batches(row: Row) -> str:
    return " / ".join(map(str, row.get("micro_batches") or ())) or NOTHING


def _seconds_until(row: Row) -> str:
    until = row.get("until") or {}
    return "not reached" if until.get("seconds") is None else number(until["seconds"], 1)


def _epochs_until(row: Row) -> str:
    return epochs((row.get("until") or {}).get("epochs"))


def _notes(rows: Sequence[Row]) -> list[str]:
    """What a cell has no room for."""
    notes = [f"{row['engine']} failed: {one_line(row['error'])}" for row in rows if row.get("error")]
    for row in rows:
        until = row.get("until")
        if until and 0 < until["reached"] < until["runs"]:
            reached = f"{until['reached']} of {until['runs']} runs"
            notes.append(f"{row['engine']} reached {percent(until['accuracy'], 1)} in {reached}")
    return notes + _notes_of_runs([row for row in rows if not row.get("error")])


def _notes_of_runs(rows: Sequence[Row]) -> list[str]:
    """What the runs' own summaries note: once if all say so, else with the engines that do."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for note in row.get("notes", ()):
            said.setdefault(note, []).append(str(row["engine"]))
    return [
        note if len(engines) == len(rows) else f"{', '.join(engines)}: {note}"
        for note, engines in said.items()
    ]
