"""One process of a job when all have agreed: what an engine starts from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dni_async.messages import Message
from launch.config.train import TrainConfig
from launch.job.data import Data, size
from launch.job.partition_plan import PartitionPlan
from launch.job.progress_file import ProgressFile
from launch.job.recovery_session import RecoverySession
from launch.report.progress import Progress
from launch.report.recorder import Recorder
from tasks.base import Task
from workers.coordination.rendezvous import Rendezvous
from workers.failure.rank_runner import RankRunner
from workers.runtime.device import Placement
from workers.runtime.execution import compile_ahead

COMPILING = 1800.0
"""Seconds that a rank may wait for the compilers of the others."""


@dataclass(slots=True)
class RankContext:
    """This process's place, and what all processes of the job have in common."""

    runner: RankRunner
    config: TrainConfig
    task: Task
    plan: PartitionPlan
    rendezvous: Rendezvous
    placement: Placement
    data: Data | None
    """None where the engine does not want this rank to read it."""
    notes: list[str] = field(default_factory=list)
    """What the user shall be told before training starts."""
    so_far: dict[str, Any] | None = None
    """What the record was at the checkpoint that the run goes on from; None for a new run."""
    progress_file: ProgressFile | None = None
    """On rank 0 of a run that may go on after its end."""
    session: RecoverySession | None = None
    """This process among those of a supervised stage."""
    recorder: Recorder | None = None
    """On rank 0, from `record` on."""

    @property
    def index(self) -> int:
        """Its number, from 0; rank i runs stage i."""
        return self.rendezvous.rank

    def compile(self, layers: nn.Module, first: int, *, trains: bool, gradients: Iterable[bool]) -> None:
        """With --compile, compile the layers from number `first` on (see `compile_ahead`); all ranks call it,
        and behind it nobody has to wait for anybody's compiler."""
        if not self.config.compile:
            return
        if first == 0:
            assert self.data is not None, "who has the first layer reads the data"
            x = self.data.sample()[0]
        else:
            shape, dtype = self.plan.shapes[first - 1], self.plan.dtypes[first - 1]
            x = torch.zeros(self.config.batch_size, *shape, dtype=getattr(torch, dtype))
        compile_ahead(layers, x.to(self.placement.device), trains=trains, gradients=gradients)
        self.rendezvous.all_gather("compiled", True, COMPILING)

    def follow(self, messages: Iterator[Message]) -> Iterator[Message]:
        """The same messages, and how far they were worked through is noted where that is of use."""
        return self.progress_file.follow(messages) if self.progress_file else messages

    def record(self, transports: Sequence[str] = ()) -> Recorder | None:
        """Start the record of the run, and with it its clock, when all is set up. Rank 0 has one."""
        if self.index > 0:
            return None
        notes = [*self.notes, *([self.task.note] if self.task.note else [])]
        before = self.session.record() if self.session else None
        for note in notes if before is None else ():
            print(f"dni-async: {note}", flush=True)
        self.recorder = Recorder(
            self.config,
            self.task,
            stages=self.rendezvous.world,
            steps_per_epoch=self.plan.steps_per_epoch,
            samples=(self.plan.train_samples, self.plan.test_samples),
            transports=list(transports),
            notes=notes,
            out=Path(self.config.out) if self.config.out else None,
            progress=Progress(
                quiet=self.config.quiet,
                metric_name=self.task.metric_name,
                tag="emulated" if self.config.emulate_gflops else "",
            ),
            start=self.plan.start,
            so_far=self.so_far,
            restarts=self.rendezvous.restart,
            lost_steps=self.progress_file.lost_steps if self.progress_file else 0,
            before=before,
        )
        if self.data is not None and self.data.validation is not None:
            self.recorder.summary["dataset"]["validation"] = size(self.data.validation)
        return self.recorder
