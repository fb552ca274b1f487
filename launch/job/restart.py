"""A job that the launcher starts anew when one of its processes dies (torchrun --max-restarts R).

start       `elastic`: checkpoints are kept ─ `begin`: remembers that it has begun ─ steps ... † a rank
restart 1   `begin`: it had begun, so the newest checkpoint in --out is its own ─ goes on from there
restart 2   ...

Nothing else than --resume would do. All processes are new; what they need of the former ones is in --out
and in the launcher's store.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.config.train import TrainConfig
from launch.job.data import Data
from launch.job.progress_file import ProgressFile
from launch.job.resume import Start, choose
from tasks.base import Task
from workers.coordination.rendezvous import Rendezvous

BEGUN = "begun"
"""Under this name a job remembers that checkpoints in --out are its own."""


def elastic(config: TrainConfig, rendezvous: Rendezvous) -> TrainConfig:
    """The settings of a job that may be started anew: it keeps checkpoints, where it can."""
    if rendezvous.max_restarts and config.checkpoint_every is None and not _obstacle(config):
        return replace(config, checkpoint_every=0)
    return config


def begin(config: TrainConfig, task: Task, data: Data, rendezvous: Rendezvous) -> Start:
    """Where the run starts, on rank 0: as `choose` says, and in a restart at the newest checkpoint.

    Raises UserError as `choose` does.
    """
    restarted = bool(rendezvous.read_before_restart(BEGUN))
    obstacle = _obstacle(config)
    if restarted and not obstacle:
        config = replace(config, resume=True)
    start = choose(config, task, data, rendezvous.world)
    rendezvous.publish_for_restart(BEGUN, True)
    if config.out and (rendezvous.max_restarts or config.checkpoint_every is not None or config.resume):
        goes_on = restarted or config.resume
        start.progress_file = ProgressFile(Path(config.out), start.step, goes_on=goes_on, restart=restarted)
    lost = start.progress_file.lost_steps if start.progress_file else 0
    start.notes[:0] = _notes(rendezvous, obstacle, lost)
    return start


def _obstacle(config: TrainConfig) -> str | None:
    """Why a restart begins from the start; None if it does not."""
    if not config.out:
        return "there is no --out to keep checkpoints in"
    if not config.capabilities.resumable:
        return f"{config.engine_name} keeps no checkpoints"
    return None


def _notes(rendezvous: Rendezvous, obstacle: str | None, lost: int) -> list[str]:
    """For the user."""
    notes = []
    if rendezvous.restart:
        notes.append(f"restart {rendezvous.restart} of {rendezvous.max_restarts}, {lost} steps lost by now")
    elif lost:
        notes.append(f"{lost} steps were trained beyond the checkpoint and are lost")
    if rendezvous.max_restarts and obstacle:
        notes.append(f"a restart begins from the start: {obstacle}")
    return notes
