"""Made-up runs in folders, for the tests of the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launch.report.page.recorded_run import RecordedRun
from launch.report.trace import chrome_trace
from tests.support.summaries import pipeline, stage, summary

HARDWARE = {"cpu": "Abacus", "cores": 2, "gpus": []}


def line(step: int, kind: str = "report", **changes: Any) -> dict[str, Any]:
    """A record of metrics.jsonl after so many steps, ten milliseconds each."""
    stages = [
        stage(i, last=i == 1)
        | {"steps": step, "targets_received": (step - 2) * (1 - i), "rss_bytes": 3e8, "busy_s": 0.008 * step}
        | {"wait_s": 0.002 * step, "send_s": 0.0, "load_s": 0.0}
        for i in range(2)
    ]
    seconds = 0.01 * step
    head = {"kind": kind, "step": step, "seconds": seconds, "recent_loss": 50 / (step + 50), "stages": stages}
    return head | changes


def recorded(name: str = "cdni", lines: int = 20, **changes: Any) -> RecordedRun:
    """A run of five epochs of 234 steps in memory."""
    about = summary(engine=name, hardware=HARDWARE, settings={"task": "mnist-fcn", "epochs": 5, "lr": 0.01})
    return RecordedRun(
        name=name,
        summary=about | changes,
        lines=[line(234 * 5 * (i + 1) // lines) for i in range(lines)],
        timeline=pipeline(),
    )


def write_run(folder: Path, run: RecordedRun) -> Path:
    """Write the files that such a run leaves."""
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(run.summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in run.lines))
    (folder / "timeline.json").write_text(json.dumps(chrome_trace(run.timeline, run.summary)))
    return folder
