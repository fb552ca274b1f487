"""Tables, on the terminal and as Markdown, from one grid of strings, so that the two always agree.

run_table, comparison_table,        ┌─► show(grid)       terminal, or plain text in a log
plan_table, window_tables  ─► Grid ─┤
                                    └─► markdown(grid)   compare.md, plan.md, windows.md, latency.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from launch.report.text import NOTHING, one_line

PLAIN_WIDTH = 120
"""Columns when the output is a file or a pipe."""

Row = TypeVar("Row")


@dataclass(kw_only=True, slots=True)
class Column:
    """One column of a table, its cells already text."""

    head: str
    cells: list[str]
    left: bool = False
    spare: bool = False
    """Whether a narrow terminal may leave it out."""


def column(
    head: str, rows: Iterable[Row], text: Callable[[Row], str], *, left: bool = False, spare: bool = False
) -> Column:
    """Return the column with `text` of every row."""
    return Column(head=head, cells=[text(row) for row in rows], left=left, spare=spare)


@dataclass(kw_only=True, slots=True)
class Grid:
    """A table as text: columns, a title above, lines below."""

    title: str
    columns: list[Column]
    notes: list[str] = field(default_factory=list)

    def without_empty_columns(self) -> Grid:
        """Return the grid without the columns that have no value in any row."""
        columns = [one for one in self.columns if any(cell != NOTHING for cell in one.cells)]
        return Grid(title=self.title, columns=columns, notes=self.notes)


# --- Markdown


def markdown(grid: Grid) -> str:
    """Return the grid as GitHub Markdown: the title in bold, the table, the notes as a list."""
    heads = [column.head.replace("\n", " ") for column in grid.columns]
    lines = [_markdown_row(heads), "|" + "|".join(":--" if c.left else "--:" for c in grid.columns) + "|"]
    lines += [_markdown_row(cells) for cells in zip(*(c.cells for c in grid.columns), strict=True)]
    above = [f"**{grid.title}**", ""] if grid.title else []
    below = ["", *(f"- {one_line(note)}" for note in grid.notes)] if grid.notes else []
    return "\n".join([*above, *lines, *below]) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


# --- the terminal


class _Console(Console):
    @override
    def on_broken_pipe(self) -> None:
        """Let the process' runner decide how to end when nobody reads any more."""
        raise BrokenPipeError


def make_console() -> Console:
    """Return standard output: as wide as the terminal, `PLAIN_WIDTH` when it is a file or a pipe."""
    console = _Console(highlight=False)
    return console if console.is_terminal else _Console(highlight=False, width=PLAIN_WIDTH)


def plain_table() -> Table:
    """Return an empty table in the style of all tables."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)


def show(grid: Grid, console: Console | None = None) -> None:
    """Print title, table and notes."""
    console = console or make_console()
    table = _fitting_table(grid, console)
    if grid.title:
        console.print(Text(grid.title, style="bold"))
    # A terminal narrower than the numbers breaks the lines itself, which keeps every digit.
    wide = max(console.width, _least_width(table, console))
    console.print(table, width=wide, crop=False, soft_wrap=wide > console.width)
    if grid.notes:
        console.print()
    for note in grid.notes:
        console.print(Text(one_line(note)), soft_wrap=not console.is_terminal)


def _fitting_table(grid: Grid, console: Console) -> Table:
    """Return the table that fits: long lists are broken first, then spare columns left out, last first."""
    spare = [column.head for column in grid.columns if column.spare]
    layouts: list[tuple[tuple[str, ...], int]] = [((), per_line) for per_line in (16, 8, 4, 3)]
    layouts += [(tuple(spare[i:]), 3) for i in range(len(spare) - 1, -1, -1)]
    layouts += [(tuple(spare), 2)]
    for without, per_line in layouts:
        table = _rich_table(grid, without, per_line)
        if _least_width(table, console) <= console.width:
            break
    return table


def _rich_table(grid: Grid, without: Sequence[str], per_line: int) -> Table:
    """Return the grid for the terminal, nothing cut off; "a / b / c" is broken after `per_line` values."""
    shown = [column for column in grid.columns if column.head not in without]
    table = plain_table()
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


def _least_width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=1000), table).minimum
