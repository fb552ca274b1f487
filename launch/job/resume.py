"""CheckpointStore of a job: rank 0 chooses one and makes them whole, every rank finds its stage in it.

new run     stages keep their parts ─ marker back at rank 0 ─ `complete`: now it is a checkpoint
--resume    rank 0: `choose` ─ plan.start ─ every rank: `restore` ─ the stream begins at that batch
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from dni_async.errors import UserError
from dni_async.messages import Marker, TargetGradient
from dni_async.rules.registry import find_rule
from dni_async.stage.stage import Stage
from dni_async.state.checkpoint import recut, targets_under_way
from launch.config.train import TrainConfig
from launch.job.context import RankContext
from launch.job.data import Data, size
from launch.job.progress_file import ProgressFile
from launch.report.files import jsonable
from launch.report.recorder import Recorder
from tasks.base import Task
from workers.checkpoint.store import CheckpointStore, Manifest

SAME = (
    "task_args",
    "rule",
    "seed",
    "batch_size",
    "optimizer",
    "optimizer_args",
    "precision",
    "sg",
    "local",
)
"""Settings that a resumed run must share with the one that made the checkpoint. Others, such as epochs, lr or
stages, may be new."""


@dataclass(slots=True)
class Start:
    """Where a run starts, as rank 0 has decided."""

    step: int = 0
    """Training batches that it has seen; 0 for a new run."""
    cut: str = ""
    """As --cut: where the network was cut, if that shall stay so."""
    record: dict[str, Any] | None = None
    """What the record of the run was at the checkpoint."""
    notes: list[str] = field(default_factory=list)
    """For the user."""
    progress_file: ProgressFile | None = None
    """Where it notes how far it comes; None for a run that nobody goes on with."""


def choose(config: TrainConfig, task: Task, data: Data, stages: int) -> Start:
    """The newest checkpoint in --out that is whole, if the run is to be resumed and there is one.

    Raises UserError when none can be used, when it was made with other settings, or when a new run would
    mix its checkpoints with those of an earlier one.
    """
    if not config.out:
        return Start(cut=config.cut)
    checkpoints = CheckpointStore(config.out)
    if not config.resume:
        if steps := checkpoints.steps():
            raise UserError(
                f"{checkpoints.folder} has a checkpoint of step {steps[-1]} of an earlier run; go on with it "
                "by --resume, or choose another --out"
            )
        return Start(cut=config.cut)
    manifest, refused = checkpoints.newest()
    if manifest is None and refused:
        raise UserError(f"{refused[0]}; no other checkpoint can be resumed")
    if manifest is None:
        note = f"no checkpoint in {checkpoints.folder} yet: training starts from the beginning"
        return Start(cut=config.cut, notes=[note])
    _check_same(manifest, settings_of(config, task, data))
    cut = config.cut
    if not cut and stages == len(manifest.bounds):
        cut = ",".join(str(first) for first, _ in manifest.bounds[1:])
    notes = [f"{reason}; it is not used" for reason in refused]
    notes.append(f"resumed from the checkpoint of step {manifest.step}")
    return Start(manifest.step, cut, manifest.record, notes)


def settings_of(config: TrainConfig, task: Task, data: Data) -> dict[str, Any]:
    """What a checkpoint and the runs that go on from it must have in common."""
    told = asdict(config)
    settings = {"task": task.name} | {name: told[name] for name in SAME} | {"samples": size(data.train)}
    return dict(json.loads(json.dumps(jsonable(settings))))


def _check_same(manifest: Manifest, settings: dict[str, Any]) -> None:
    for name, now in settings.items():
        then = manifest.settings.get(name)
        if then != now:
            option = name.replace("_", "-")
            raise UserError(
                f"the checkpoint of step {manifest.step} was made with {option} {then}, not {now}; resume "
                "with the same, or start anew in another --out"
            )


def restore(context: RankContext, stage: Stage) -> list[TargetGradient]:
    """Bring the stage to where the checkpoint was. Gives the targets that were on their way to it then.

    Where the network is cut otherwise now, weights and optimizer follow their layers. Raises UserError when
    the checkpoint does not fit the network.
    """
    start, bounds = context.plan.start, context.plan.bounds
    checkpoints = CheckpointStore(context.config.out)
    manifest = checkpoints.manifest(start)
    then, now = manifest.bounds[-1][1], bounds[-1][1]
    if then != now:
        raise UserError(
            f"the checkpoint of step {start} is of {then} layers and task {context.task.name} has {now}; "
            "resume with the same task"
        )
    if manifest.bounds == bounds:
        state = checkpoints.read_part(manifest, context.index)
    else:
        first, end = bounds[context.index]
        holding = [i for i, (a, b) in enumerate(manifest.bounds) if a < end and first < b]
        parts = {i: checkpoints.read_part(manifest, i) for i in holding}
        state = recut(parts, manifest.bounds, first, end)
        context.notes.append(recut_note(context.config.rule))
    try:
        stage.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        cause = " ".join(str(error).split())[:160]
        raise UserError(
            f"the checkpoint of step {start} does not fit task {context.task.name} ({cause}); resume with "
            "the same task"
        ) from error
    return targets_under_way(state, context.placement.device)


def recut_note(rule: str) -> str:
    """What the user shall know of a checkpoint that is cut otherwise."""
    anew = find_rule(rule).capabilities.restarts_after_recut
    note = "the network is cut otherwise than in the checkpoint: weights and optimizer state follow their"
    return f"{note} layers" + (f", {anew} start anew" if anew else "")


def complete(context: RankContext, recorder: Recorder, marker: Marker) -> None:
    """A CHECKPOINT marker is back, so every stage has tried to write: complete the set, or say why not."""
    files = [marker.body[str(i)]["checkpoint"] for i in range(len(context.plan.bounds))]
    problem = next((file["error"] for file in files if "error" in file), None)
    checkpoints = CheckpointStore(context.config.out)
    assert context.data is not None
    settings = settings_of(context.config, context.task, context.data)
    if problem is None:
        record = recorder.so_far()
        try:
            checkpoints.complete(Manifest(marker.step, context.plan.bounds, settings, record, files))
        except OSError as error:
            problem = f"{error.filename or checkpoints.folder}: {error.strerror or error}"
    if problem is not None:
        checkpoints.discard(marker.step)
    recorder.on_checkpoint(marker.step, problem)
