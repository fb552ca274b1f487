"""Turns a task, a configuration and a plan into one stage."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn
from typing_extensions import override

from dni_async.early_stopping import Patience
from dni_async.learning_rates import schedule_factor
from dni_async.loss_scaling import LossScaler
from dni_async.networks.batch_normalised import batch_normalised
from dni_async.nonfinite import FiniteChecks
from dni_async.optim import Updater
from dni_async.parameter_groups import NamedModules, numbered, parameter_groups, parameter_names
from dni_async.rules import LossRule, Rule
from dni_async.rules.registry import build_rule
from dni_async.stage.stage import Stage
from dni_async.state.state_dict import random_state
from dni_async.synthesis.oracle import SeparateRandomness
from launch.config.optimizer import OptimizerConfig
from launch.config.train import TrainConfig
from launch.job.delay import Delay
from launch.job.layers import NetworkLayers
from launch.job.partition_plan import PartitionPlan
from launch.job.rule_context import rule_context
from tasks.base import Task, seed_everything
from workers.runtime.precision import in_precision, sequential


def schedule_of(config: OptimizerConfig, total_steps: int) -> Callable[[int], float] | None:
    """Return the factor of the learning rate by weight version, in a run of `total_steps` batches; None if
    it is constant."""
    if config.schedule == "constant" and not config.warmup:
        return None
    updates = max(1, total_steps // config.accumulate)
    warmup = math.ceil(config.warmup * updates)
    return schedule_factor(config.schedule, updates, config.milestones, warmup_steps=warmup)


def build_updater(
    config: OptimizerConfig,
    modules: NamedModules,
    total_steps: int,
    precision: str = "fp32",
    delay: Delay | None = None,
) -> Updater:
    """Return optimizer, schedule and clipping for the parameters of modules, the same for every engine, in a
    run of `total_steps` batches, with a loss scaler for gradients in fp16.

    delay: of the gradients, under a rule that keeps graphs.
    """
    modules = list(modules)
    groups = parameter_groups(modules, config.group_settings())
    optimizer = config.factory()(groups) if groups else None
    factor = schedule_of(config, total_steps)
    if delay and optimizer:
        delay.set_beta1(optimizer)
    return Updater(
        optimizer,
        delay.scheduled(factor) if delay else factor,
        config.clip_norm,
        config.accumulate,
        [parameter for parameter, _ in parameter_names(modules)],
        config.ema,
        LossScaler() if precision == "fp16" else None,
        delay.make_correction() if delay else None,
    )


def patience_of(epochs: int, steps_per_epoch: int) -> Patience | None:
    """Return the patience in steps; None without --patience, where evaluations are on the test set."""
    return Patience(epochs * steps_per_epoch) if epochs else None


def build_stage(
    config: TrainConfig, task: Task, plan: PartitionPlan, index: int, device: torch.device
) -> tuple[Stage, list[str]]:
    """Return stage `index` with its rule, and the names of its layers.

    Only the layers of the stage get memory. Their initial weights are those of sequential backprop.
    """
    layers = NetworkLayers(task, config.task, plan.steps_per_epoch)
    first, end = plan.bounds[index]
    names = [f"{i} {type(layers.structure[i]).__name__}" for i in range(first, end)]
    module = sequential(layers.build(first, end), config.runtime.precision).to(device)
    total_steps = config.task.epochs * plan.steps_per_epoch
    rule = _rule(config, task, plan, index, layers, device)
    delay = Delay.of(config, task, index, len(plan.bounds))
    seed_stage(config, index)
    stage = Stage(
        index,
        module,
        rule,
        build_updater(
            config.optimizer, numbered(module, first), total_steps, config.runtime.precision, delay
        ),
        send_targets=index > 0 and config.capabilities.needs_targets,
        target_every=config.partition.target_every if config.capabilities.sparse_targets else 1,
        skip_nonfinite=config.recovery.on_nonfinite == "skip",
        patience=patience_of(config.evaluation.patience, plan.steps_per_epoch),
        takes=plan.boundary(first),
        returns=plan.boundary(end),
        targets=plan.target_boundary(),
        checks=FiniteChecks(deferred=device.type != "cpu" and config.recovery.on_nonfinite == "stop"),
    )
    return stage, names


def loss_rule(config: TrainConfig, task: Task, plan: PartitionPlan, device: torch.device) -> LossRule:
    """Return the rule of the stage, or of the engine, that computes the loss."""
    loss = in_precision(task.loss, config.runtime.precision, device)
    valid = task.valid if plan.ignored_labels else None
    boundary = plan.boundary(len(plan.boundaries) - 1)
    return LossRule(loss, task.metric, valid, boundary, task.extra_metrics)


def seed_stage(config: TrainConfig, index: int) -> None:
    """Seed the process of stage `index`: dropout and the like differ between stages."""
    seed_everything(config.task.seed + 1 + index)


def _rule(
    config: TrainConfig,
    task: Task,
    plan: PartitionPlan,
    index: int,
    layers: NetworkLayers,
    device: torch.device,
) -> Rule:
    stages, end = len(plan.bounds), plan.bounds[index][1]
    total_steps = config.task.epochs * plan.steps_per_epoch
    if index == stages - 1:
        return loss_rule(config, task, plan, device)

    def copy_downstream() -> tuple[nn.Module, Updater]:
        downstream = layers.build(end, len(layers))
        replica = copy.deepcopy(sequential(downstream, config.runtime.precision)).to(device)
        parts = [replica[a - end : b - end] for a, b in plan.bounds[index + 1 :]]
        updaters = [
            build_updater(config.optimizer, numbered(part.children(), first), total_steps)
            for part, (first, _) in zip(parts, plan.bounds[index + 1 :], strict=True)
        ]
        seeded = []
        for stage, part in enumerate(parts, index + 1):
            seed_stage(config, stage)
            seeded.append(SeparateRandomness(part, random_state()))
        return nn.Sequential(*seeded), _UpdaterGroup(updaters)

    context = rule_context(
        config,
        task,
        plan.shapes[end - 1],
        plan.shapes[-1],
        plan.label_size,
        stages,
        config.task.seed + 1000 + index,
        device,
        index,
        copy_downstream,
        batch_normalised=batch_normalised(layers.structure)[end - 1],
        ignored_labels=plan.ignored_labels,
        schedule=schedule_of(config.optimizer, total_steps),
        boundary=plan.boundary(end),
        output=plan.boundary(len(layers)),
    )
    return build_rule(config.rule, context)


class _UpdaterGroup(Updater):
    """The updaters of several stages as one: each clips its own gradients, as the stages do."""

    def __init__(self, updaters: list[Updater]) -> None:
        super().__init__(None)
        self.updaters = updaters

    @override
    def step(self, rate: float = 1.0) -> None:
        super().step(rate)
        for updater in self.updaters:
            updater.step(rate)
