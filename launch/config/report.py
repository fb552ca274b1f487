"""The settings of a report over runs that have ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from dni_async.errors import UserError

REPORT = "report.html"
"""Name of the page in the folder of a run or a comparison."""


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """Write one page, report.html, over runs and comparisons that have ended."""

    runs: Positional[tuple[str, ...]]
    """Folders that --out named: of runs, comparisons and sweeps."""
    out: str = ""
    """File to write; by default report.html in the folder, or in the one that holds all folders."""
    animate: bool = False
    """Write an animated SVG of the runs instead, one below the other: batches, updates and gradients on their
    way; by default unlocking.svg."""

    def __post_init__(self) -> None:
        self.runs = tuple(
            run for run in self.runs if Path(run).name != REPORT
        )  # runs/* names the last page, too
        if not self.runs:
            raise UserError("no runs given; name the folders of some")
        for run in self.runs:
            if not Path(run).is_dir():
                raise UserError(f"{run} is no folder; give folders that --out named")
        if self.out and Path(self.out).is_dir():
            raise UserError(f"{self.out} is a folder; give --out a file")
        if self.animate and self.out and not self.out.endswith(".svg"):
            raise UserError(f"{self.out} is no .svg, the only format of --animate; give --out another name")
