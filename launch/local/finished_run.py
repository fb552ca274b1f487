"""A run that an earlier sweep has finished, and that an interrupted sweep takes over when it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launch.config.compare import CompareConfig
from launch.config.contestants import Contestant
from launch.job.output_folder import SUMMARY
from launch.report.comparison_rows import Run
from launch.report.files import jsonable

MARKER = "comparison.txt"
"""Name of a file in the folder of each job of a comparison. Only such a folder is emptied for a new job."""
MARKER_TEXT = "A comparison made this folder, and empties it when it runs again with the same --out.\n"
"""Content of that file; `marker_text` adds what the settings of the job do not have."""
WITHOUT_EFFECT = ("out", "config", "quiet", "port", "timeout", "report")
"""Settings that change nothing of what a run measures, so that a finished run counts with any of them."""


def marker_text(config: CompareConfig) -> str:
    """Return what the file in the folder of a job says, with the wire between its hosts if it has one."""
    return MARKER_TEXT + (f"wan {config.wan}\n" if config.wan else "")


def finished_run(contestant: Contestant, folder: Path, repeat: int) -> Run | None:
    """Return the summary that an earlier sweep has left of this run; None if there is none, or if that run
    was interrupted or had other settings."""
    marker, path = folder / MARKER, folder / SUMMARY
    if not (marker.is_file() and path.is_file()) or marker.read_text() != marker_text(contestant.config):
        return None
    summary: Run = json.loads(path.read_text())
    if "interrupted" in summary:
        return None
    wanted = json.loads(json.dumps(jsonable(contestant.job(folder, repeat).as_json())))
    return summary if _measured(summary.get("settings", {})) == _measured(wanted) else None


def _measured(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}
