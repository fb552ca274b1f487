"""A task that trains in milliseconds, with layers of one's choice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import TensorDataset

from dni_async.messages import Marker, Message
from dni_async.stage.simulation import Order, Simulation, upstream_first
from dni_async.stage.stage import Stage
from launch.config.train import TrainConfig
from launch.job.context import RankContext
from launch.job.data import Data, read
from launch.job.message_stream import stream
from launch.job.partition_plan import make_plan
from launch.job.stage_factory import build_stage
from tasks.base import Task
from workers.coordination.rendezvous import Rendezvous
from workers.failure.rank_runner import RankRunner
from workers.runtime.device import Placement

FEATURES, CLASSES = 6, 3


def five_layers() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8)),
        nn.ReLU(),
        nn.Linear(8, 7),
        nn.Dropout(0.5),
        nn.Linear(7, CLASSES),
    ]


def plain_layers() -> list[nn.Module]:
    """Five layers without chance in them."""
    widths = [FEATURES, 8, 7, 6, 5]
    hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    return [*hidden, nn.Linear(5, CLASSES)]


class Tiny(Task):
    """(6,) normal inputs, 3 classes of chance."""

    classes = CLASSES

    def __init__(
        self,
        make: Callable[[], list[nn.Module]] = five_layers,
        train: int = 50,
        test: int = 20,
        validation: int = 0,
    ) -> None:
        self.make, self.sizes, self.split_off = make, (train, test), validation

    def layers(self) -> list[nn.Module]:
        return self.make()

    def data(self, root: Path | None = None) -> tuple[TensorDataset, TensorDataset]:
        generator = torch.Generator().manual_seed(0)
        train, test = (_by_chance(n, generator) for n in self.sizes)
        return train, test

    def validation(self, root: Path | None = None) -> TensorDataset | None:
        return _by_chance(self.split_off, torch.Generator().manual_seed(5)) if self.split_off else None


def _by_chance(count: int, generator: torch.Generator) -> TensorDataset:
    x = torch.randn(count, FEATURES, generator=generator)
    return TensorDataset(x, torch.randint(0, CLASSES, (count,), generator=generator))


def context_of(task: Task, config: TrainConfig, rendezvous: Rendezvous | None = None) -> RankContext:
    """A rank, by default the only one, that has read the data."""
    rendezvous = rendezvous or Rendezvous(0, 1, 0, 1, dist.HashStore())
    data = data_of(task, config)
    plan = make_plan(config, task, data, rendezvous.world)
    placement = Placement(torch.device("cpu"), 1, [])
    return RankContext(RankRunner(), config, task, plan, rendezvous, placement, data)


def simulated(
    task: Task, config: TrainConfig, stages: int, order: Order = upstream_first
) -> tuple[list[Stage], list[Marker]]:
    """The stages of a job at its end, all in this process, and the markers that came back."""
    data = data_of(task, config)
    plan = make_plan(config, task, data, stages)
    parts = [build_stage(config, task, plan, i, torch.device("cpu"))[0] for i in range(stages)]
    simulation = Simulation(parts, config.partition.capacity)
    packed = {"inputs": plan.boundary(0), "targets": plan.target_boundary()}
    simulation.run(messages_of(data, config, **packed), order)
    return parts, simulation.markers


def messages_of(data: Data, config: TrainConfig, **settings: Any) -> Iterator[Message]:
    """What stage 0 of a job works through."""
    device = torch.device("cpu")
    return stream(
        data, config.task.epochs, device, lambda: 0.0, evaluations=config.evaluation.evaluations, **settings
    )


def data_of(task: Task, config: TrainConfig) -> Data:
    return read(config.task, task, patience=config.evaluation.patience)
