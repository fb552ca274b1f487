"""Which runs belong on a page: those of the folders, and of a comparison or sweep all its jobs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dni_async.errors import UserError
from launch.report.page.recorded_run import RecordedRun, read_run

COMPARISONS = ("compare", "sweep")
"""Names of the files, without their endings, in which comparisons write their rows."""
MOST_TIMELINES = 12
"""Of more runs than this, timelines are left out, which take most of the time to read."""


def find_runs(folders: Sequence[Path]) -> list[RecordedRun]:
    """Return the runs in these folders, called by the part of their paths that differs.

    Raises:
        UserError: a folder has no results of a run or of a comparison.
    """
    found: list[Path] = []
    for folder in folders:
        comparison = read_comparison(folder)
        if not comparison and not (folder / "summary.json").is_file():
            raise UserError(f"{folder} has no results (summary.json, compare.json); give folders of runs")
        found += jobs_of(folder, comparison[1]["rows"]) if comparison else [folder]
    if not found:
        raise UserError("no runs; give the folders that --out named")
    timelines = len(found) <= MOST_TIMELINES
    return [read_run(f, name, timeline=timelines) for f, name in zip(found, short_names(found), strict=True)]


def read_comparison(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return ("compare" or "sweep", content of that file); None where there is none."""
    for name in COMPARISONS:
        path = folder / f"{name}.json"
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                raise UserError(f"{path} is damaged; compare again") from None
            if isinstance(content, dict) and "rows" in content:
                return name, content
    return None


def jobs_of(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Return the folders of the jobs that the rows of a comparison are of, in the order in which they ran."""
    labels = {str(row["engine"]).replace("/", "_") for row in rows}
    summaries = sorted(folder.rglob("summary.json"), key=lambda path: path.stat().st_mtime_ns)
    return [path.parent for path in summaries if _labels(path.parent.name) & labels]


def _labels(folder: str) -> set[str]:
    """Return what a contestant may be called whose job has a folder of this name: `cdni` for `cdni-2`."""
    return {folder, re.sub(r"-\d+$", "", folder)}


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return the paths without what they have in common at the beginning."""
    if len(folders) == 1:
        return [folders[0].resolve().name]
    paths = [folder.resolve() for folder in folders]
    common = os.path.commonpath([path.parent for path in paths])
    return [os.path.relpath(path, common) for path in paths]
