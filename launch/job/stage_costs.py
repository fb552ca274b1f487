"""What layers and the networks of a rule cost, for an automatic cut."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from dni_async.networks.batch_normalised import batch_normalised
from dni_async.networks.factory import measurable
from dni_async.partition.costs import ROUNDS, Clock, Costs, measure_costs
from dni_async.rules import Rule
from dni_async.rules.registry import build_rule
from launch.config.runtime import LinkedConfig
from launch.config.train import TrainConfig
from launch.job.rule_context import rule_context
from tasks.base import Task
from workers.runtime.emulation import flop_clock
from workers.runtime.precision import in_precision, sequential


def rules_to_measure(
    config: TrainConfig,
    task: Task,
    layers: list[nn.Module],
    shapes: list[tuple[int, ...]],
    label_size: int,
    stages: int,
    device: torch.device,
) -> Callable[[int], Rule]:
    """Return a function of i: the rule after layer i, one and the same for all outputs that are alike."""
    normalised = batch_normalised(layers)

    @functools.cache
    def build(shape: tuple[int, ...], is_normalised: bool) -> Rule:
        context = rule_context(
            config,
            task,
            shape,
            shapes[-1],
            label_size,
            stages,
            config.task.seed,
            device,
            batch_normalised=is_normalised,
        )
        return build_rule(config.rule, replace(context, sg=measurable(context.sg, shape)))

    return lambda i: build(shapes[i], normalised[i])


def measure_stage_costs(
    config: TrainConfig,
    task: Task,
    layers: list[nn.Module],
    batch: tuple[Tensor, Tensor],
    shapes: list[tuple[int, ...]],
    label_size: int,
    stages: int,
) -> Costs:
    """Measure a training step of every layer, and of the rule's network after each of them."""
    device = batch[0].device
    rules = rules_to_measure(config, task, layers, shapes, label_size, stages, device)
    with cost_clock(config.runtime, device) as (clock, rounds):
        costs = measure_costs(
            [sequential([copy.deepcopy(layer)], config.runtime.precision).to(device) for layer in layers],
            *batch,
            loss=in_precision(task.loss, config.runtime.precision, device),
            optimizer=config.optimizer.factory(),
            rule=rules if config.capabilities.has_network else lambda i: None,
            clock=clock,
            rounds=rounds,
        )
    costs.interfaces = [cost.per_target(config.partition.target_every) for cost in costs.interfaces]
    return costs


@contextmanager
def cost_clock(config: LinkedConfig, device: torch.device) -> Iterator[tuple[Clock, int]]:
    """Yield the clock by which costs are measured for an automatic cut, and the number of rounds.

    On emulated devices, and with `deterministic`, where the same command must lead to the same cut, the clock
    counts FLOPs (with `deterministic` at 1 GFLOP/s).
    """
    gflops = config.emulate_gflops or (1.0 if config.deterministic else None)
    if gflops is None:
        yield device_clock(device), ROUNDS
        return
    with flop_clock(gflops) as clock:
        yield clock, 1  # FLOPs are always the same


def device_clock(device: torch.device) -> Clock:
    """Return a clock that first waits until the device has done all its work."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock
