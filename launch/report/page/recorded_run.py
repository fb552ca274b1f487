"""What a run left in its folder, as the page needs it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dni_async.errors import UserError
from launch.config.run_file import RUN_FILE
from launch.report.files import read_summary
from launch.report.timeline import Timeline
from launch.report.trace import read_chrome_trace

MOST_LINES = 2000
"""Lines of metrics.jsonl that are drawn; of more, every second, third ... is left out."""


@dataclass(kw_only=True, slots=True)
class RecordedRun:
    """A run to show."""

    name: str
    """In legends and tables."""
    summary: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """Of metrics.jsonl."""
    timeline: Timeline = field(default_factory=tuple)
    folder: str = ""
    """Empty where there is none."""
    repeats: bool = False
    """Whether config.yaml is in the folder."""


def read_run(folder: Path, name: str = "", *, timeline: bool = True) -> RecordedRun:
    """Return the run that ended in a folder, with or without its timeline.

    Raises:
        UserError: there is no summary.json, or a file is damaged.
    """
    summary = read_summary(folder / "summary.json")
    trace = folder / "timeline.json"
    return RecordedRun(
        name=name or folder.name,
        summary=summary,
        lines=read_lines(folder / "metrics.jsonl"),
        timeline=_timeline(trace) if timeline and trace.is_file() else (),
        folder=str(folder),
        repeats=(folder / RUN_FILE).is_file(),
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl, not more than about `MOST_LINES`; none if there is no such file.

    The records of evaluations are all among them. A line that is cut off is left out.
    """
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="replace") as file:
        records = list(_records(file))
    every = 1 + len(records) // MOST_LINES
    last = len(records) - 1
    return [r for i, r in enumerate(records) if r.get("kind") != "report" or i % every == 0 or i == last]


def _records(lines: Iterator[str] | Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _timeline(path: Path) -> Timeline:
    try:
        return read_chrome_trace(_json(path))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is no timeline of a run; remove it") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}); give the folder of a run that ended"
        ) from None
    except ValueError:
        raise UserError(f"{path} is damaged; train again, or leave this folder out") from None
