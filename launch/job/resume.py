"""Resuming a run: rank 0 chooses a checkpoint, every rank loads the part of its stage.

--resume    rank 0: `choose_start` ─ plan.start ─ every rank: `restore_stage` ─ the stream starts there
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.rules.registry import find_rule
from dni_async.stage.stage import Stage
from dni_async.state.checkpoint import recut, targets_under_way
from dni_async.state.state_dict import State
from launch.config.train import TrainConfig
from launch.job.checkpoints import READING, settings_of
from launch.job.context import RankContext
from launch.job.data import Data
from launch.job.message_stream import StreamPosition
from launch.job.output_folder import check_unfinished, check_unused
from launch.job.reading_state import restored
from launch.job.stage_factory import patience_of
from launch.job.start import Start
from launch.report.evaluation import metric_key, split_of
from tasks.base import Task
from workers.checkpoint.manifest import Manifest
from workers.checkpoint.store import CheckpointStore


def choose_start(
    config: TrainConfig, task: Task, data: Data, stages: int, *, restarted: bool = False
) -> Start:
    """Return the newest complete checkpoint in --out if the run is to be resumed and has one, otherwise the
    beginning.

    Args:
        restarted: whether this job itself has made what is in --out.

    Raises:
        UserError: no checkpoint can be used, it was made with other settings, or a new run would overwrite
            an earlier one.
    """
    if not config.output.out:
        return Start(cut=config.partition.cut)
    checkpoints = CheckpointStore(config.output.out)
    may_replace = restarted or config.recovery.overwrite
    if not config.recovery.resume:
        if not may_replace:
            check_unused(Path(config.output.out))
        return Start(cut=config.partition.cut)
    manifest, refused = checkpoints.newest()
    if manifest is None and refused:
        raise UserError(f"{refused[0]}; no other checkpoint can be resumed")
    if manifest is None:
        if not may_replace:
            check_unused(Path(config.output.out), resume=True)
        note = f"no checkpoint in {checkpoints.folder} yet: training starts from the beginning"
        return Start(cut=config.partition.cut, notes=[note])
    _check_record(manifest)
    _check_patience(manifest, config.evaluation.patience)
    _check_same(manifest, settings_of(config, task, data))
    cut = config.partition.cut
    if not cut and stages == len(manifest.bounds):
        cut = ",".join(str(first) for first, _ in manifest.bounds[1:])
    if not restarted:
        ended_by = end_of(config, data, manifest.step, manifest.record)
        check_unfinished(Path(config.output.out), manifest.step, ended_by)
    notes = [f"{reason}; it is not used" for reason in refused]
    notes += [f"a refused checkpoint is kept as {path}" for path in _set_aside(checkpoints, manifest.step)]
    notes.append(f"resumed from the checkpoint of step {manifest.step}")
    return Start(StreamPosition(manifest.step), cut, manifest.record, notes)


def end_of(config: TrainConfig, data: Data, step: int, record: Mapping[str, Any]) -> str | None:
    """Return the option by which a run ends after so many steps, such as "epochs"; None if it trains on.

    Args:
        record: of the run at that step, as a checkpoint has it.
    """
    if step >= config.task.epochs * data.steps_per_epoch:
        return "epochs"
    until, evaluations = config.evaluation.until, record["evaluations"]
    key = metric_key(split_of(evaluations), "accuracy")
    if until is not None and any(evaluation[key] >= until for evaluation in evaluations):
        return "until"
    patience = patience_of(config.evaluation.patience, data.steps_per_epoch)
    if patience and "patience" in record:
        patience.load_state_dict(record["patience"])
        return "patience" if patience.over else None
    return None


def _set_aside(checkpoints: CheckpointStore, step: int) -> list[Path]:
    """Set aside the checkpoints that were refused, and return where they are.

    Raises:
        UserError: a folder cannot be renamed.
    """
    try:
        return checkpoints.set_aside(step)
    except OSError as error:
        raise UserError(
            f"a damaged checkpoint cannot be renamed ({error.filename}: {error.strerror}); move it away"
        ) from error


def _check_record(manifest: Manifest) -> None:
    """Raise UserError unless the record of the run has what every run continues."""
    for name in ("seconds", "epochs", "evaluations"):
        if name not in manifest.record:
            raise UserError(
                f"the checkpoint of step {manifest.step} cannot be resumed (its record of the run has no "
                f"{name}); start anew in another --out"
            )


def _check_patience(manifest: Manifest, patience: int) -> None:
    """Raise UserError unless both runs evaluate on the same set: on the validation set with --patience, or on
    the test set without."""
    had = "patience" in manifest.record
    if had != bool(patience):
        then, remedy = ("with", "give it") if had else ("without", "leave it out")
        raise UserError(
            f"the checkpoint of step {manifest.step} was made {then} --patience; {remedy}, or start anew in "
            "another --out"
        )


def _check_same(manifest: Manifest, settings: dict[str, Any]) -> None:
    defaults = TrainConfig().as_json()  # of an option that is newer than the checkpoint
    for name, now in settings.items():
        then = manifest.settings.get(name, defaults.get(name))
        if then != now:
            option = name.replace("_", "-")
            raise UserError(
                f"the checkpoint of step {manifest.step} was made with {option} {then}, not {now}; resume "
                "with the same, or start anew in another --out"
            )


def restore_stage(context: RankContext, stage: Stage) -> list[TargetGradient]:
    """Load the checkpoint that the run goes on from into a stage, and return the target gradients that were
    under way to the stage when the checkpoint was made.

    Where the network is cut differently now, weights and optimizer state follow their layers.

    Raises:
        UserError: the checkpoint does not fit the network.
    """
    start, bounds = context.plan.start, context.plan.bounds
    checkpoints = CheckpointStore(context.config.output.out)
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
        state = recut(parts, manifest.bounds, first, end, context.config.optimizer.accumulate)
        context.start.notes.append(recut_note(context.config.rule))
    try:
        stage.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        cause = " ".join(str(error).split())[:160]
        raise UserError(
            f"the checkpoint of step {start} does not fit task {context.task.name} ({cause}); resume with "
            "the same task"
        ) from error
    resume_reading(context, state if manifest.bounds == bounds else parts.get(0))
    return targets_under_way(state, context.placement.device)


def resume_reading(context: RankContext, part: State | None) -> None:
    """Let the data of stage 0 go on where the run does.

    Args:
        part: of stage 0 in a checkpoint; None: what the run has read is read again.
    """
    if context.data is not None:
        reading = restored(part[READING]) if part and READING in part else None
        context.data.resume(context.start.position.step, reading)


def recut_note(rule: str) -> str:
    """What the user shall know of a checkpoint that is cut otherwise."""
    restarted = find_rule(rule).capabilities.restarts_after_recut
    note = "the network is cut otherwise than in the checkpoint: weights and optimizer state follow their"
    return f"{note} layers" + (f", {restarted} start anew" if restarted else "")
