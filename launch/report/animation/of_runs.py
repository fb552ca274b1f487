"""The animation of recorded runs."""

from __future__ import annotations

from collections.abc import Sequence

from dni_async.errors import UserError
from launch.engines.registry import find_engine
from launch.report.animation.scene import make_scene
from launch.report.animation.svg import Clip, animate
from launch.report.page.recorded_run import RecordedRun
from launch.report.text import conditions, percent
from launch.report.timeline import steady_window

STEPS = 6
"""Training steps of the first run that the clip shows."""
SECONDS = 16.0
"""How long the clip takes."""


def animation(runs: Sequence[RecordedRun]) -> str:
    """Return the SVG of these runs, one below the other, over the same time.

    Raises:
        UserError: a run has no timeline of several stages.
    """
    for run in runs:
        if sum(bool(row["events"]) for row in run.timeline) < 2:
            raise UserError(f"{run.name} has no timeline of several stages; give runs of two or more")
    windows = [steady_window(run.timeline, STEPS) for run in runs]
    length = windows[0][1] - windows[0][0]
    clips = []
    for run, (start, _) in zip(runs, windows, strict=True):
        scene = make_scene(run.timeline, (start, start + length))
        batches = len(scene.updates[-1])
        title = f"{run.summary.get('engine', run.name)}: {batches} batches"
        clips.append(
            Clip(f"{title}, stages at work {percent(scene.busy)} of the time", _explained(run), scene)
        )
    return animate(clips, _footnote(runs, length), SECONDS)


def _explained(run: RecordedRun) -> str:
    engine = find_engine(run.summary.get("settings", {}).get("engine", "decoupled"))
    if not engine.uses_rule:
        return "a stage waits for the gradients of its batch before it updates"
    if any(stage.get("sg_updates") for stage in run.summary["stages"]):
        late = "the real one comes late and trains the SG network"
        return f"a stage updates at once, by a predicted gradient; {late}"
    if any(stage.get("targets_received") for stage in run.summary["stages"]):
        return "a stage takes the next batch at once, and updates when the gradient has come back"
    return "a stage updates at once, by the gradient of a loss of its own"


def _footnote(runs: Sequence[RecordedRun], length: float) -> str:
    tasks = ", ".join(dict.fromkeys(str(run.summary["task"]) for run in runs))
    about = ", ".join(dict.fromkeys(filter(None, (conditions(run.summary) for run in runs))))
    slower = SECONDS / (length / 1e6)
    return (
        f"recorded: {tasks}{', ' + about if about else ''}; {length / 1e6:.2f} s, {slower:.0f} times slower"
    )
