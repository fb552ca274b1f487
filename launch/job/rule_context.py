"""What the rule of a stage is built from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dni_async.boundary import TENSOR, Boundary
from dni_async.optim import Updater
from dni_async.rules import RuleContext
from launch.config.train import TrainConfig
from launch.job.delay import Delay
from tasks.base import Task
from workers.runtime.precision import head_precision, in_precision, sequential


def rule_context(
    config: TrainConfig,
    task: Task,
    shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    label_size: int,
    stages: int,
    seed: int,
    device: torch.device,
    index: int = 0,
    copy_downstream: Callable[[], tuple[nn.Module, Updater]] | None = None,
    *,
    batch_normalised: bool,
    ignored_labels: bool = False,
    schedule: Callable[[int], float] | None = None,
    boundary: Boundary = TENSOR,
    output: Boundary = TENSOR,
) -> RuleContext:
    """Return what the rule of stage `index` is built from, at an interface of `shape`.

    Args:
        output_shape: of the whole network. Shapes are without the batch.
    """
    delay = Delay.of(config, task, index, stages)
    return RuleContext(
        shape=shape,
        output_shape=output_shape,
        loss=in_precision(task.loss, config.runtime.precision, device),
        metric=task.metric,
        valid=task.valid if ignored_labels else None,
        condition=task.condition,
        class_indices=task.class_indices if type(task).condition is Task.condition else None,
        label_size=label_size,
        classes=None if task.multi_label else task.classes,
        boundary=boundary,
        output=output,
        stages=stages,
        sg=config.sg,
        local=config.local,
        pending_capacity=2 * config.partition.capacity + 2,
        stash_capacity=config.partition.stash_of(index, stages),
        predicted_updates=delay.predicted_updates if delay else 0,
        seed=seed,
        device=device,
        batch_normalised=batch_normalised,
        schedule=schedule,
        guarded=config.recovery.on_nonfinite == "skip",
        in_precision=lambda module: sequential([module], head_precision(config.runtime.precision)),
        copy_downstream=copy_downstream,
    )
