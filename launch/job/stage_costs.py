"""What layers and the networks of a rule cost, for an automatic cut."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dni_async.boundary import TENSOR, Boundary
from dni_async.networks.batch_normalised import batch_normalised
from dni_async.networks.factory import measurable, parameters_of
from dni_async.partition.costs import ROUNDS, Clock, Costs, measure_costs
from dni_async.partition.large_costs import measure_one_by_one
from dni_async.rules import Rule
from dni_async.rules.registry import build_rule
from dni_async.trees import map_tensors
from launch.config.runtime import LinkedConfig
from launch.config.train import TrainConfig
from launch.job.layers import NetworkLayers
from launch.job.rule_context import rule_context
from launch.job.run_through import Crossings, bind_one
from tasks.base import Task
from workers.runtime.emulation import flop_clock
from workers.runtime.precision import in_precision, sequential

TOGETHER = 2**26
"""Parameters of a network above which its layers are measured one by one."""


def rules_to_measure(
    config: TrainConfig,
    task: Task,
    layers: list[nn.Module],
    shapes: list[tuple[int, ...]],
    label_size: int,
    stages: int,
    device: torch.device,
    output: Boundary = TENSOR,
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
            output=output,
        )
        return build_rule(config.rule, replace(context, sg=measurable(context.sg, shape)))

    return lambda i: build(shapes[i], normalised[i])


def measure_stage_costs(
    config: TrainConfig,
    task: Task,
    layers: NetworkLayers,
    crossings: Crossings,
    y: Any,
    label_size: int,
    stages: int,
    device: torch.device | None = None,
) -> Costs:
    """Measure a training step of every layer, and of the rule's network after each of them, on a batch with
    targets y; by default on the CPU."""
    device = device or torch.device("cpu")
    rules = rules_to_measure(
        config, task, layers.structure, crossings.shapes, label_size, stages, device, crossings.boundaries[-1]
    )
    y = map_tensors(lambda tensor: tensor.to(device), y)
    loss = in_precision(task.loss, config.runtime.precision, device)
    with cost_clock(config.runtime, device) as (clock, rounds):
        settings: dict[str, Any] = {
            "loss": crossings.packed(loss),
            "optimizer": config.optimizer.factory(),
            "rule": rules if config.capabilities.has_network else lambda i: None,
            "clock": clock,
            "rounds": rounds,
        }
        x = crossings.h[0].to(device)
        copies = _copies(layers, crossings, config.runtime.precision, device)
        if sum(map(parameters_of, layers.structure)) > TOGETHER:
            costs = measure_one_by_one(copies, x, y, count=len(layers), **settings)
        else:
            costs = measure_costs(list(copies), x, y, **settings)
    costs.interfaces = [cost.per_target(config.partition.target_every) for cost in costs.interfaces]
    return costs


def _copies(
    layers: NetworkLayers, crossings: Crossings, precision: str, device: torch.device
) -> Iterator[nn.Module]:
    """Yield the layers as modules that may be trained, each bound to what crosses; of a layer that loses its
    memory anyway there is no copy, unless all layers have to be there together."""
    together = sum(map(parameters_of, layers.structure)) <= TOGETHER
    for i, layer in enumerate(layers):
        own = copy.deepcopy(layer) if together or not layers.is_temporary(i) else layer
        yield bind_one(sequential([own], precision).to(device), i, crossings)


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
