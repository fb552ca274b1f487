"""What an engine gets: this process's place in the job, and what all processes have agreed on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from dni_async.messages import Message
from launch.config.train import TrainConfig
from launch.job.data import Data
from launch.job.message_stream import stream
from launch.job.output_folder import PROFILES
from launch.job.partition_plan import PartitionPlan
from launch.job.recovery_session import RecoverySession
from launch.job.start import Start
from tasks.base import Task
from workers.coordination.rendezvous import Rendezvous
from workers.failure.rank_runner import RankRunner
from workers.runtime.compilation import compile_ahead
from workers.runtime.cuda import accelerator_of, is_mps_running
from workers.runtime.device import Placement
from workers.runtime.probe import Probe
from workers.runtime.profiler import StepProfiler
from workers.runtime.warm_up import warm_up

WITHOUT_MPS = "ranks share a GPU without MPS, so that one computes at a time (docs/GPU.md)"
WARM_UP_TIMEOUT_S = 120.0
"""Seconds that a rank may wait at least until the GPUs of the others are warm."""
COMPILE_TIMEOUT_S = 1800.0
"""Seconds that a rank may wait for the compilers of the others."""


@dataclass(slots=True)
class RankContext:
    """One rank of a job that is ready to train."""

    runner: RankRunner
    config: TrainConfig
    task: Task
    plan: PartitionPlan
    rendezvous: Rendezvous
    placement: Placement
    data: Data | None
    """None where the engine does not read the data on this rank."""
    start: Start = field(default_factory=Start)
    """Where the run starts; on rank 0."""
    session: RecoverySession | None = None
    """Of a supervised stage."""

    @property
    def index(self) -> int:
        """The rank, from 0; rank i runs stage i."""
        return self.rendezvous.rank

    @property
    def out(self) -> Path | None:
        """The folder for results; None without --out."""
        return Path(self.config.output.out) if self.config.output.out else None

    @contextmanager
    def profiled(self, probe: Probe) -> Iterator[None]:
        """Record the steps of --profile that the probe sees in the block."""
        steps = self.config.logging.profiled_steps()
        if not steps or self.out is None:
            yield
            return
        path = self.out / PROFILES / f"rank-{self.index}.json"
        profiler = StepProfiler(steps, path, self.index, self.rendezvous.world)
        profiler.attach(probe)
        try:
            yield
        finally:
            profiler.finish()
        if profiler.steps and self.index == 0:
            note = f"--profile {self.config.logging.profile} recorded nothing: these steps were not trained"
            print(f"dni-async: {note}", file=sys.stderr, flush=True)

    def begin_training(self) -> None:
        """From now on let a signal end training early, if there is a folder for what was trained."""
        if self.out:
            self.runner.interruption.begin_training()

    def compile(self, layers: nn.Module, first: int, *, trains: bool, gradients: Iterable[bool]) -> None:
        """With --compile, compile the layers from number `first` on (see `compile_ahead`), and wait until all
        ranks have compiled theirs. Every rank has to call it."""
        if not self.config.runtime.compile:
            return
        device, takes = self.placement.device, self.plan.boundary(first)
        if first == 0:
            assert self.data is not None, "who has the first layer reads the data"
            h, extras = takes.pack(self.data.sample()[0])
        else:
            h, extras = self.plan.zeros(first, self.config.task.batch_size)
        returns = self.plan.boundary(first + len(list(layers.children())))
        compile_ahead(
            layers,
            h.to(device),
            tuple(extra.to(device) for extra in extras),
            trains=trains,
            gradients=gradients,
            takes=takes,
            returns=returns,
        )
        self.rendezvous.all_gather("compiled", True, COMPILE_TIMEOUT_S)

    def warm_up(self) -> None:
        """Have a GPU do everything once, and wait until all ranks have: the clock starts after that. Every
        rank has to call it."""
        device, timeout = self.placement.device, self.config.runtime.timeout
        if not (accelerator := accelerator_of(device)):
            return
        warm_up(device, timeout)
        patience = max(timeout, WARM_UP_TIMEOUT_S)
        gpus = self.rendezvous.all_gather("warm", accelerator.identity(), patience)
        if len(set(gpus)) < len(gpus) and not is_mps_running():
            self.start.notes.append(WITHOUT_MPS)

    def messages(
        self, clock: Callable[[], float], enough: Callable[[], bool], device: torch.device
    ) -> Iterator[Message]:
        """Return the stream of batches and markers from where the run starts; see `stream`."""
        assert self.data is not None, "only ranks that read the data have a stream"
        self.data.place_on(accelerator_of(self.placement.device))
        progress_file = self.start.progress_file
        return stream(
            self.data,
            self.config.task.epochs,
            device,
            clock,
            evaluations=self.config.evaluation.evaluations,
            checkpoint_every=self.config.recovery.checkpoint_every,
            position=self.start.position,
            inputs=self.plan.boundary(0),
            targets=self.plan.target_boundary(),
            on_step=progress_file.write if progress_file else lambda step: None,
            enough=enough,
        )
