"""Writes report.html. A page that cannot be written is worth one line, never a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.config.report import REPORT
from launch.report.files import collect_failure, jsonable
from launch.report.grid import Grid
from launch.report.timeline import Timeline
from workers.checkpoint.atomic_file import write_whole

SWITCH = "DNI_REPORT"
"""Environment variable; with "no" runs write no page, as with --no-report."""


def write_run_report(
    out: Path, summary: Mapping[str, Any], timeline: Timeline = (), grids: Sequence[Grid] = ()
) -> None:
    """Write the page of a run that has just ended to its folder.

    Args:
        grids: the tables of the run; without, one with a row.
    """

    def page() -> str:
        from launch.report.page.document import make_page  # plotly: what only this process needs
        from launch.report.page.recorded_run import RecordedRun, read_lines
        from launch.report.page.tables import runs_grid

        run = RecordedRun(
            name=str(summary.get("engine") or summary["rule"]),
            summary=jsonable(summary),
            lines=read_lines(out / "metrics.jsonl"),
            timeline=timeline,
            folder=str(out),
            repeats=True,
        )
        return make_page([run], f"{summary['task']}, {run.name}", grids or [runs_grid([run])])

    _write(out / REPORT, page)


def write_comparison_report(out: Path, title: str, grids: Sequence[Grid]) -> bool:
    """Write the page over all jobs of a comparison to its folder. Returns whether it is there."""

    def page() -> str:
        from launch.report.page.collect import find_runs, read_comparison
        from launch.report.page.commands import commands_of_comparison
        from launch.report.page.document import make_page

        found = read_comparison(out)
        assert found is not None, "its rows were written before"
        name, content = found
        return make_page(
            find_runs([out]), title, grids, commands_of_comparison(out, name, content["settings"])
        )

    return _write(out / REPORT, page)


def _write(path: Path, page: Callable[[], str]) -> bool:
    """Write the page; when that fails for any reason, print one line."""
    if os.environ.get(SWITCH) == "no":
        return False
    problems: list[str] = []
    with collect_failure(problems, path, draws=True):
        write_whole(path, page().encode())
    for problem in problems:
        print(f"dni-async: {problem}; the other results are there", file=sys.stderr, flush=True)
    return not problems
