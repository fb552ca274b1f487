"""Writing the checkpoints of a run.

rank 0 sends a CHECKPOINT marker down ─ every stage writes its part (`save_parts`) ─ the marker comes back ─
rank 0 writes the manifest (`complete_checkpoint`): only now is it a checkpoint
"""

from __future__ import annotations

import json
from typing import Any

from dni_async.messages import Marker
from dni_async.stage.stage import Stage
from dni_async.state.state_dict import State, copied
from launch.config.train import TrainConfig
from launch.job.context import RankContext
from launch.job.data import Data
from launch.job.reading_state import storable
from launch.job.samples import known_size
from launch.report.files import jsonable
from launch.report.recorder import Recorder
from tasks.base import Task
from workers.checkpoint.manifest import Manifest
from workers.checkpoint.store import CheckpointStore

READING = "reading"
"""Entry in the part of stage 0: the state of the reading of the training set, if that has one."""
SAME = (
    "task_args",
    "rule",
    "seed",
    "batch_size",
    "steps_per_epoch",
    "optimizer",
    "optimizer_args",
    "accumulate",
    "precision",
    "sg",
    "local",
)
"""Settings that a resumed run must share with the one that made the checkpoint. Others, such as epochs, lr or
stages, may be new."""


def settings_of(config: TrainConfig, task: Task, data: Data) -> dict[str, Any]:
    """Return the settings that a checkpoint and the runs that go on from it must have in common."""
    flat = config.as_json()
    names = (*SAME, "loader_workers") if data.is_stream else SAME  # workers share a stream among them
    settings = {"task": task.name} | {name: flat[name] for name in names}
    settings |= {"samples": known_size(data.train)}
    return dict(json.loads(json.dumps(jsonable(settings))))


def save_parts(context: RankContext, stage: Stage) -> None:
    """Let the stage write its part of a checkpoint whenever a CHECKPOINT marker passes."""
    if context.config.recovery.checkpoint_every is None:
        return
    checkpoints = CheckpointStore(context.config.output.out)

    def save(step: int, part: State | None) -> dict[str, State]:
        if part is None:
            return {"checkpoint": {"error": f"stage {stage.index} was started again meanwhile"}}
        if context.data and (reading := context.data.state_dict()) is not None:
            part = part | {READING: copied(storable(reading))}
        return {"checkpoint": checkpoints.write_part(step, stage.index, part, context.plan.run)}

    stage.save_checkpoint = save


def complete_checkpoint(context: RankContext, recorder: Recorder, marker: Marker) -> None:
    """Complete the set of parts when its CHECKPOINT marker has come back, so that every stage has written its
    own; discard the set when one of them could not."""
    files = [marker.body[str(i)]["checkpoint"] for i in range(len(context.plan.bounds))]
    problem = next((file["error"] for file in files if "error" in file), None)
    checkpoints = CheckpointStore(context.config.output.out)
    assert context.data is not None
    settings = settings_of(context.config, context.task, context.data)
    settings |= {"module_layers": context.plan.module_layers}  # for names in exports
    if problem is None:
        manifest = Manifest(
            marker.step,
            context.plan.bounds,
            settings,
            recorder.resume_state(),
            files,
            context.plan.run,
        )
        try:
            checkpoints.complete(manifest)
        except OSError as error:
            problem = f"{error.filename or checkpoints.folder}: {error.strerror or error}"
    if problem is not None:
        checkpoints.discard(marker.step)
    recorder.on_checkpoint(marker.step, problem)
