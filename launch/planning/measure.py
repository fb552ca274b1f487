"""Measures a profile: layers, rules and messages of one network on this machine."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.networks.factory import label_size_of
from dni_async.partition.costs import (
    InterfaceCost,
    LayerCost,
    LayerRun,
    Loss,
    RuleRun,
    Run,
    Seconds,
    layer_runs,
    measure_rounds,
    rule_runs,
)
from dni_async.rules import Rule
from dni_async.rules.registry import rules_with
from dni_async.synthesis.pending import tensors
from dni_async.trees import first_tensor, map_tensors
from launch.config.plan import PlanConfig
from launch.config.train import TrainConfig
from launch.job.data import read
from launch.job.layers import build_layers
from launch.job.run_through import Crossings, bind, run_through
from launch.job.stage_costs import device_clock, rules_to_measure
from launch.job.task_checks import check_labels, check_scores
from launch.planning.footprint import optimized_bytes, saved_bytes, state_bytes, total_bytes
from launch.planning.profile import DEPTHS, NO_RULE, InterfaceProfile, LayerProfile, Profile, settings_of
from launch.report.metadata import hardware
from tasks.base import Task
from workers.runtime.device import pick_device
from workers.runtime.emulation import flop_clock
from workers.transport.link_benchmark import ping
from workers.transport.link_cost import Ping

PARTS = 8
"""A batch is measured whole, and the first of so many parts of it."""
ROUNDS, SECONDS = 100, 15.0
"""Limits of rounds, and of their seconds together."""


def measure(config: PlanConfig, task: Task, messages: Callable[[PlanConfig], Ping] | None = None) -> Profile:
    """Return a profile, measured in this process; messages are measured between two others.

    Args:
        messages: replaces the measurement of messages, for tests.

    Raises:
        UserError: the task does not fit.
    """
    measurement = _Measurement(config, task)
    timeout = max(60.0, config.runtime.timeout)
    device, transport = config.runtime.device, _transport(config)
    links = messages(config) if messages else ping([transport], device=device, timeout=timeout)
    before = torch.get_num_threads()
    torch.set_num_threads(config.runtime.threads or before)
    try:
        return measurement.profile(links)
    finally:
        torch.set_num_threads(before)


def gflop_per_batch(config: PlanConfig, task: Task) -> float:
    """Return the floating-point operations of one batch of backprop, in 1e9."""
    measurement = _Measurement(config, task)
    runs = measurement.layer_runs(measurement.samples)
    with flop_clock(1.0) as clock:
        return sum(map(sum, measure_rounds(runs, clock, rounds=1).values()))


def _transport(config: PlanConfig) -> str:
    """Return the transport of all links on one host."""
    return "shm" if config.runtime.transport == "auto" else config.runtime.transport


class _Scale(nn.Module):
    """A layer with almost no work and one weight to update."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class _Measurement:
    """The measurements of one network."""

    def __init__(self, config: PlanConfig, task: Task) -> None:
        self.config, self.task = config, task
        self.device = pick_device(config.runtime.device, 0)
        self.data = read(config.task, task, data=config.data)
        check_labels(task, self.data)
        self.x, y = self.data.sample()
        layers = build_layers(task, config.task)
        self.crossings = run_through(task, layers, self.x)
        check_scores(task, self.crossings.output, y)
        self.layers = [layer.to(self.device) for layer in layers]
        self.y = map_tensors(lambda tensor: tensor.to(self.device), y)
        self.samples = len(first_tensor(y))
        self.optimizer = config.optimizer.factory()
        self.refused: dict[str, str] = {}

    def profile(self, messages: Ping) -> Profile:
        """Return the whole profile."""
        part_size = min(self.samples, max(2, self.samples // PARTS))  # batch norm needs two samples
        whole, part = (self.layer_runs(size) for size in (self.samples, part_size))
        trivial = self._trivial_runs()
        rules = self._rule_runs(whole)
        at_interfaces = [run for runs in rules.values() for run in runs if run]
        seconds = self._seconds([*whole, *part, *trivial, *at_interfaces])
        return Profile(
            settings=settings_of(self.config),
            hardware=hardware(),
            batch_size=self.samples,
            part_size=part_size,
            load=self._load(),
            label_bytes=total_bytes(tensors(self.y)),
            condition_bytes=self.task.condition(self.y).nbytes,
            fixed=LayerCost(*seconds[trivial[1]]),
            layers=self._layers(
                [LayerCost(*seconds[run]) for run in whole], [LayerCost(*seconds[run]) for run in part]
            ),
            interfaces={
                key: [self._interface(run, InterfaceCost(*seconds[run])) if run else NO_RULE for run in runs]
                for key, runs in rules.items()
            },
            refused=self.refused,
            link=messages.links[_transport(self.config)],
            gloo=messages.links["dist"],
            all_reduce=messages.all_reduce,
        )

    def layer_runs(self, samples: int) -> list[LayerRun]:
        """Return runs of copies of the layers, with the first `samples` samples of the batch."""
        x, y = (map_tensors(lambda tensor: tensor[:samples], part) for part in (self.x, self.y))
        crossings = self.crossings if samples == self.samples else self._crossings(x)
        layers = bind(copy.deepcopy(self.layers), crossings)
        loss = crossings.packed(self.task.loss)
        return layer_runs(layers, crossings.h[0].to(self.device), y, loss, self.optimizer)

    def _crossings(self, x: Any) -> Crossings:
        """Return what crosses between the layers for inputs x, on the CPU."""
        return run_through(self.task, [copy.deepcopy(layer).cpu() for layer in self.layers], x)

    def _trivial_runs(self) -> list[LayerRun]:
        """Return runs of three layers of one number; the second has the fixed cost of any layer."""
        x = torch.ones(1, 1, device=self.device)
        layers = [_Scale().to(self.device), _Scale().to(self.device), nn.Identity()]
        loss: Loss = lambda output, y: output.sum()  # noqa: E731
        return layer_runs(layers, x, x, loss, self.optimizer)

    def _rule_runs(self, layers: list[LayerRun]) -> dict[str, list[RuleRun | None]]:
        """Return the runs of a rule after each layer but the last, by rule and number of stages."""
        found: dict[str, list[RuleRun | None]] = {}
        for name, stages in itertools.product(rules_with("has_network"), DEPTHS):
            try:
                runs = rule_runs(layers, self.y, self._maker(name, stages))
            except UserError as error:
                self.refused[name] = str(error)
                continue
            found[f"{name} {stages}"] = runs
        return found

    def _maker(self, name: str, stages: int) -> Callable[[int], Rule]:
        config = self.config.to(TrainConfig, rule=name, profile="")
        labels = label_size_of(self.task.condition, self.y) if config.capabilities.conditional else 0
        return rules_to_measure(
            config,
            self.task,
            self.layers,
            self.crossings.shapes,
            labels,
            stages,
            self.device,
            self.crossings.boundaries[-1],
        )

    def _seconds(self, runs: Iterable[Run]) -> Seconds:
        """Return the seconds of every section; on an emulated device at least those that it takes here."""
        runs = list(runs)
        here = measure_rounds(runs, device_clock(self.device), ROUNDS, SECONDS)
        if not self.config.runtime.emulate_gflops:
            return here
        with flop_clock(self.config.runtime.emulate_gflops) as clock:
            there = measure_rounds(runs, clock, rounds=1)  # FLOPs are always the same
        return {run: list(map(max, here[run], there[run])) for run in here}

    def _layers(self, batch: list[LayerCost], part: list[LayerCost]) -> list[LayerProfile]:
        saved, outputs = saved_bytes(bind(self.layers, self.crossings), self.crossings.h[0].to(self.device))
        return [
            LayerProfile(
                name=type(layer).__name__,
                batch=batch[i],
                part=part[i],
                parameter_bytes=total_bytes(layer.parameters()),
                optimizer_bytes=self._optimizer_bytes(layer),
                saved_bytes=saved[i],
                output_bytes=outputs[i],
                extra_bytes=total_bytes(self.crossings.extras[i + 1]),
            )
            for i, layer in enumerate(self.layers)
        ]

    def _optimizer_bytes(self, layer: nn.Module) -> int:
        """Return the bytes that the optimizer, and the weights' average, keep for a layer after a step."""
        parameters = [p for p in copy.deepcopy(layer).parameters() if p.requires_grad]
        if not parameters:
            return 0
        optimizer = self.optimizer(parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        average = total_bytes(parameters) if self.config.optimizer.ema is not None else 0
        return state_bytes(optimizer) + average

    def _interface(self, run: RuleRun, cost: InterfaceCost) -> InterfaceProfile:
        """Return the profile of an interface; its bytes are those after the rule has run."""
        optimizer = run.rule.optimizer
        state = optimized_bytes(optimizer) if optimizer else 0
        return InterfaceProfile(cost, state, run.rule.replay_bytes(run.h, self.y))

    def _load(self) -> float:
        times, batches = [], self.data.training(1)
        for _ in range(min(8, self.data.steps_per_epoch)):
            begun = time.perf_counter()
            next(batches)
            times.append(time.perf_counter() - begun)
        return statistics.median(times)
