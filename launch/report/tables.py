"""Tables for the terminal and as Markdown, and the table of one run.

Both come from one `Grid` of strings, so the two never say different things:

    run_grid(summary) ─┐           ┌─► show(grid)       terminal, or plain text in a log
                       ├─► Grid ───┤
    compare_grid(rows) ┘           └─► markdown(grid)   README, compare.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from launch.report.timeline import layer_range, run_name

NOTHING = "-"
PLAIN_WIDTH = 120
"""Columns when the output is a file or a pipe."""


@dataclass(kw_only=True, slots=True)
class Column:
    """One column of a table, its cells already text."""

    head: str
    cells: list[str]
    left: bool = False
    spare: bool = False
    """Whether a narrow terminal may leave it out."""


@dataclass(kw_only=True, slots=True)
class Grid:
    """A table as text: columns, a title above, lines below."""

    title: str
    columns: list[Column]
    notes: list[str] = field(default_factory=list)


# --- numbers as text


def number(value: float | None, digits: int = 0) -> str:
    """12345.6 becomes `12,346`; None becomes `-`."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """0.984 becomes `98 %`."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def epochs(count: float | None) -> str:
    """3 becomes `3`, 1.25 becomes `1.25`."""
    return NOTHING if count is None else str(int(count)) if count == int(count) else f"{count:.2f}"


def metric(value: float | None, name: str = "accuracy", digits: int = 1) -> str:
    """An accuracy in per cent, any other metric as it is."""
    if name == "accuracy":
        return percent(value, digits)
    return NOTHING if value is None else f"{value:.4g}"


def stage_name(stage: Mapping[str, Any]) -> str:
    """`0 (layers 0-2)`."""
    layers = stage.get("layers")
    return f"{stage['index']} ({layer_range(layers)})" if layers else str(stage["index"])


# --- what the tables say


def run_grid(summary: Mapping[str, Any]) -> Grid:
    """One row per stage; columns that say nothing for this engine are left out."""
    stages, name = summary["stages"], summary.get("metric_name", "accuracy")

    def column(head: str, text: Callable[[Mapping[str, Any]], str], **kind: bool) -> Column:
        return Column(head=head, cells=[text(stage) for stage in stages], **kind)

    columns = [
        column("stage", stage_name, left=True),
        column("parameters", lambda s: number(s.get("parameters"))),
        column("utilisation", lambda s: percent(s.get("utilisation"))),
        column("busy s", lambda s: number(s.get("busy_s"), 1), spare=True),
        column("wait s", lambda s: number(s.get("wait_s"), 1)),
        column("send s", lambda s: number(s.get("send_s"), 1), spare=True),
        column("SG s", lambda s: number(s.get("sg_s") or None, 1)),
        column("head s", lambda s: number(s.get("head_s") or None, 1)),
        column("staleness\nmean / max", _staleness),
        column("SG\nerror", lambda s: number(s.get("sg_relative_error"), 2)),
        column("SG\ncosine", lambda s: number(s.get("sg_cosine"), 2)),
        column("local\nloss", lambda s: number(s.get("local_loss"), 3)),
        column(f"local\n{name}", lambda s: metric(s.get("local_accuracy"), name)),
        column("batches\nskipped", lambda s: number(s.get("skipped") or None)),
        column("emulation\noverrun", lambda s: percent(s.get("emulation_overrun"), 1)),
        column("peak\nMB", lambda s: number(_megabytes(s.get("peak_rss_bytes"))), spare=True),
    ]
    told = [c for c in columns if any(cell != NOTHING for cell in c.cells)]
    notes = [result_line(summary), *summary.get("notes", ())]
    return Grid(title=_run_title(summary), columns=told, notes=notes)


def _staleness(stage: Mapping[str, Any]) -> str:
    mean, most = stage.get("staleness_mean"), stage.get("staleness_max")
    if mean is None or not stage.get("targets_received", 1):
        return NOTHING
    return f"{mean:.1f} / {number(most)}"


def _megabytes(size: int | None) -> float | None:
    return None if size is None else size / 1e6


def _run_title(summary: Mapping[str, Any]) -> str:
    transports = " + ".join(summary.get("transports") or ())
    count = len(summary["stages"])
    parts = [run_name(summary), f"{count} stage" + "s" * (count != 1), transports]
    return ", ".join([*(part for part in parts if part), f"seed {summary['seed']}"])


def result_line(summary: Mapping[str, Any]) -> str:
    """`test accuracy 98.41 %, test loss 0.0513, 12,345 samples/s, 24.3 s`."""
    final, name = summary.get("final") or {}, summary.get("metric_name", "accuracy")
    parts = [
        f"test {name} {metric(final.get('test_accuracy'), name, digits=2)}",
        f"test loss {number(final.get('test_loss'), 4)}",
        f"{number(summary.get('samples_per_s'))} samples/s",
        f"{number(summary.get('train_s'), 1)} s",
    ]
    if stopping := summary.get("early_stopping"):
        parts.append(_best_line(stopping, name))
    until = summary.get("until")
    if until and until["reached"]:
        how = f"after {number(until['seconds'], 1)} s (epoch {epochs(until['epochs'])})"
        parts.append(f"{percent(until['accuracy'], 1)} reached {how}")
    elif until:
        parts.append(f"{percent(until['accuracy'], 1)} not reached")
    return ", ".join(parts)


def _best_line(stopping: Mapping[str, Any], name: str) -> str:
    """`weights of epoch 3 (validation accuracy 97.12 %), ended by patience`."""
    best, ended = stopping["best"], f"ended by {stopping['ended']}"
    if best is None:
        return f"no validation, {ended}"
    score = metric(best["validation_accuracy"], name, digits=2)
    return f"weights of epoch {epochs(best['epoch'])} (validation {name} {score}), {ended}"


def one_line(text: object) -> str:
    """Without line breaks."""
    return " ".join(str(text).split())


# --- where they are shown


def markdown(grid: Grid) -> str:
    """GitHub Markdown: the title in bold, the table, the notes as a list."""
    heads = [column.head.replace("\n", " ") for column in grid.columns]
    lines = [_markdown_row(heads), "|" + "|".join(":--" if c.left else "--:" for c in grid.columns) + "|"]
    lines += [_markdown_row(cells) for cells in zip(*(c.cells for c in grid.columns), strict=True)]
    above = [f"**{grid.title}**", ""] if grid.title else []
    below = ["", *(f"- {one_line(note)}" for note in grid.notes)] if grid.notes else []
    return "\n".join([*above, *lines, *below]) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def rich_table(grid: Grid, without: Sequence[str] = (), per_line: int = 16) -> Table:
    """The grid for the terminal, nothing cut off. A list "a / b / c" breaks after `per_line` values."""
    shown = [column for column in grid.columns if column.head not in without]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    tallest = max(column.head.count("\n") for column in shown)
    for column in shown:
        head = Text("\n" * (tallest - column.head.count("\n")) + column.head, style="bold")
        cells = [_broken(cell, per_line) for cell in column.cells]
        least = max(len(line) for text in [column.head, *cells] for line in text.split("\n"))
        table.add_column(head, justify="left" if column.left else "right", min_width=least)
    for row in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*(Text(_broken(cell, per_line)) for cell in row))
    return table


def _broken(cell: str, per_line: int) -> str:
    values = cell.split(" / ")
    lines = [" / ".join(values[i : i + per_line]) for i in range(0, len(values), per_line)]
    return " /\n".join(lines)


def fitting_table(grid: Grid, console: Console) -> Table:
    """The table that fits the console: long lists broken first, then spare columns left out, last first."""
    spare = [column.head for column in grid.columns if column.spare]
    layouts: list[tuple[tuple[str, ...], int]] = [((), per_line) for per_line in (16, 8, 4, 3)]
    layouts += [(tuple(spare[i:]), 3) for i in range(len(spare) - 1, -1, -1)]
    layouts += [(tuple(spare), 2)]
    for without, per_line in layouts:
        table = rich_table(grid, without, per_line)
        if _least_width(table, console) <= console.width:
            break
    return table


def _least_width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=1000), table).minimum


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more: how to end is for the process' runner to say, not for rich."""
        raise BrokenPipeError


def make_console() -> Console:
    """Standard output: as wide as the terminal, `PLAIN_WIDTH` when it is a file or a pipe."""
    console = _Console(highlight=False)
    return console if console.is_terminal else _Console(highlight=False, width=PLAIN_WIDTH)


def show(grid: Grid, console: Console | None = None) -> None:
    """Print title, table and notes."""
    console = console or make_console()
    table = fitting_table(grid, console)
    if grid.title:
        console.print(Text(grid.title, style="bold"))
    # A terminal narrower than the numbers breaks the lines itself, which keeps every digit.
    wide = max(console.width, _least_width(table, console))
    console.print(table, width=wide, crop=False, soft_wrap=wide > console.width)
    if grid.notes:
        console.print()
    for note in grid.notes:
        console.print(Text(one_line(note)), soft_wrap=not console.is_terminal)
