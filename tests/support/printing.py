"""Prints tables for the tests."""

import io

from rich.console import Console

from launch.report.grid import Grid, show


def printed(grid: Grid, width: int, terminal: bool = True) -> list[str]:
    """The lines that a terminal of this width shows."""
    out = io.StringIO()
    show(grid, Console(file=out, width=width, force_terminal=terminal, color_system=None, highlight=False))
    return [line.rstrip() for line in out.getvalue().splitlines()]
