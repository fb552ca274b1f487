"""A job whose ranks are all started again by the launcher when one of them dies (torchrun --max-restarts R).

start       `with_checkpoints` ─ `decide_start` ─ `begin`: publishes that it has begun ─ steps ... † a rank
restart 1   `decide_start`: it had begun, so the newest checkpoint in --out is its own ─ goes on from there
restart 2   ...

The ranks are new processes; what they need of the former ones is in --out and in the launcher's store. The
result is that of --resume.
"""

from __future__ import annotations

from pathlib import Path

from dni_async.errors import UserError
from launch.config.run_file import write_run_file
from launch.config.train import TrainConfig
from launch.job.data import Data
from launch.job.output_folder import clear, remove_results
from launch.job.progress_file import ProgressFile, lost_steps
from launch.job.resume import choose_start
from launch.job.start import Start
from tasks.base import Task
from workers.coordination.rendezvous import Rendezvous

BEGUN = "begun"
"""Key in the launcher's store: checkpoints in --out belong to this job."""


def with_checkpoints(config: TrainConfig, rendezvous: Rendezvous) -> TrainConfig:
    """Return the settings of a job; one that may be restarted writes checkpoints, where it can."""
    if rendezvous.max_restarts and config.recovery.checkpoint_every is None and not _obstacle(config):
        return config.changed(checkpoint_every=0)
    return config


def decide_start(config: TrainConfig, task: Task, data: Data, rendezvous: Rendezvous) -> Start:
    """Return where the run starts, on rank 0: after a restart at the newest checkpoint, otherwise where
    `choose_start` says.

    Raises:
        UserError: as `choose_start` does.
    """
    restarted = bool(rendezvous.read_before_restart(BEGUN))
    obstacle = _obstacle(config)
    if restarted and not obstacle:
        config = config.changed(resume=True, overwrite=False)
    start = choose_start(config, task, data, rendezvous.world, restarted=restarted)
    if _writes_progress(config, rendezvous):
        if restarted or config.recovery.resume:
            start.lost_steps = lost_steps(Path(config.output.out), start.position.step, restart=restarted)
    elif rendezvous.restart:
        start.lost_steps = None
    start.notes[:0] = _notes(rendezvous, obstacle, start.lost_steps)
    return start


def begin(config: TrainConfig, rendezvous: Rendezvous, start: Start) -> None:
    """Clear --out of what the run does not go on with, write config.yaml, and let the run write how far it
    comes; what is there from now on is of this job.

    Only rank 0 calls it, before the other ranks write anything.

    Raises:
        UserError: a file of an earlier run cannot be removed, or config.yaml not be written.
    """
    if config.output.out:
        out = Path(config.output.out)
        try:
            if start.record is not None:
                remove_results(out)
            else:
                clear(out, overwrite=config.recovery.overwrite)
        except OSError as error:
            raise UserError(
                f"cannot remove {error.filename} of an earlier run ({error.strerror}); choose another --out"
            ) from error
        if not rendezvous.restart:
            write_run_file(out, "train", config)
        if _writes_progress(config, rendezvous):
            start.progress_file = ProgressFile(out, start.position.step, start.lost_steps or 0)
    rendezvous.publish_for_restart(BEGUN, True)


def _writes_progress(config: TrainConfig, rendezvous: Rendezvous) -> bool:
    """Return whether the run may be resumed or restarted, and so writes how far it comes."""
    checkpoints = config.recovery.checkpoint_every is not None or config.recovery.resume
    return bool(config.output.out and (rendezvous.max_restarts or checkpoints))


def _obstacle(config: TrainConfig) -> str | None:
    """Return why a restart has to begin from the start; None if it does not."""
    if not config.output.out:
        return "there is no --out to keep checkpoints in"
    if not config.capabilities.resumable:
        return f"{config.engine_name} keeps no checkpoints"
    return None


def _notes(rendezvous: Rendezvous, obstacle: str | None, lost: int | None) -> list[str]:
    """Return the lines for the user."""
    notes = []
    if rendezvous.restart:
        known = "" if lost is None else f", {lost} steps lost so far"
        notes.append(f"restart {rendezvous.restart} of {rendezvous.max_restarts}{known}")
    elif lost:
        notes.append(f"{lost} steps were trained beyond the checkpoint and are lost")
    if rendezvous.max_restarts and obstacle:
        notes.append(f"a restart begins from the start: {obstacle}")
    return notes
