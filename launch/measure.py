"""Measures a profile: every layer, every SG network, every kind of message, one after the other."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dni_async.errors import UserError
from dni_async.partition import Clock, InterfaceCost, LayerCost, measure_costs, measure_interface
from dni_async.recipes import label_size_of
from dni_async.updater import optimizer_factory
from launch.blueprint import build_layers, device_clock, synthesizer_for
from launch.checks import check_labels, check_scores, run_through
from launch.config import JobConfig, TrainConfig
from launch.profile import DEPTHS, InterfaceProfile, LayerProfile, Profile, settings_of
from launch.source import Data
from launch.summary import hardware
from tasks.base import Task
from workers.device import pick_device
from workers.emulate import flop_clock
from workers.ping import Ping, ping

RULES = ("dni", "cdni")
"""Rules that have a network at the interface."""
Loss = Callable[[Tensor, Tensor], Tensor]
PARTS = 8
"""A batch is measured whole, and a part of it: one of so many."""


def measure(config: JobConfig, task: Task, messages: Callable[[JobConfig], Ping] | None = None) -> Profile:
    """Measure everything, in this process, and messages between two others.

    messages: measures those, for tests. Raises UserError for a task that does not fit.
    """
    measurement = _Measurement(config, task)
    told = (messages or _ping)(config)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        return measurement.profile(told)
    finally:
        torch.set_num_threads(before)


def gflop_per_batch(config: JobConfig, task: Task) -> float:
    """Floating-point operations of one batch of backprop, in 1e9."""
    return _Measurement(config, task).gflop()


def _ping(config: JobConfig) -> Ping:
    return ping([_transport(config)], device=config.device, timeout=max(60.0, config.timeout))


def _transport(config: JobConfig) -> str:
    """Of all links, on one host."""
    return "shm" if config.transport == "auto" else config.transport


class _Scale(nn.Module):
    """Next to nothing to do, and one weight to update."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class _Measurement:
    """Everything about one network."""

    def __init__(self, config: JobConfig, task: Task) -> None:
        self.config, self.task = config, task
        self.device = pick_device(config.device, 0)
        self.data = Data(*task.data(config.data_folder()), config.batch_size, config.seed)
        check_labels(task, self.data)
        x, y = self.data.sample()
        layers = build_layers(task, config.seed)
        self.shapes, output = run_through(layers, x)
        check_scores(task, output, y)
        self.layers = [layer.to(self.device) for layer in layers]
        self.x, self.y = x.to(self.device), y.to(self.device)
        self.optimizer = optimizer_factory(config.optimizer, config.lr, **config.optimizer_settings())
        self.refused: dict[str, str] = {}

    def profile(self, messages: Ping) -> Profile:
        """All of it."""
        part = min(len(self.y), max(2, len(self.y) // PARTS))  # batch norm needs two samples
        loss = self.task.loss
        return Profile(
            settings=settings_of(self.config),
            hardware=hardware(),
            batch_size=len(self.y),
            part_size=part,
            load=self._load(),
            label_bytes=self.y.nbytes,
            condition_bytes=self.task.condition(self.y).nbytes,
            fixed=self._fixed(),
            layers=self._layers(
                self._costs(self.layers, self.x, self.y, loss),
                self._costs(self.layers, self.x[:part], self.y[:part], loss),
            ),
            interfaces=self._interfaces(),
            refused=self.refused,
            link=messages.links[_transport(self.config)],
            gloo=messages.links["dist"],
            all_reduce=messages.all_reduce,
        )

    def _layers(self, batch: list[LayerCost], part: list[LayerCost]) -> list[LayerProfile]:
        saved, outputs = saved_bytes(self.layers, self.x)
        return [
            LayerProfile(
                name=type(layer).__name__,
                batch=batch[i],
                part=part[i],
                parameter_bytes=_bytes(layer.parameters()),
                optimizer_bytes=self._optimizer_bytes(layer),
                saved_bytes=saved[i],
                output_bytes=outputs[i],
            )
            for i, layer in enumerate(self.layers)
        ]

    def _clocks(self) -> Iterator[tuple[Clock, int]]:
        """Each clock that counts, and how often to measure by it."""
        with device_clock(self.device) as clock:
            yield clock, 15
        if self.config.emulate_gflops:
            with flop_clock(self.config.emulate_gflops) as clock:
                yield clock, 1  # FLOPs are always the same

    def _costs(self, layers: list[nn.Module], x: Tensor, y: Tensor, loss: Loss) -> list[LayerCost]:
        """Of every layer; on an emulated device each section lasts as long as it does there, or here."""
        measured = [self._costs_by(*clock, layers, x, y, loss) for clock in self._clocks()]
        sections = ("forward", "backward", "update")
        return [
            LayerCost(*(max(getattr(cost, section) for cost in same) for section in sections))
            for same in zip(*measured, strict=True)
        ]

    def _costs_by(
        self, clock: Clock, repeats: int, layers: list[nn.Module], x: Tensor, y: Tensor, loss: Loss
    ) -> list[LayerCost]:
        return measure_costs(
            copy.deepcopy(layers),
            x,
            y,
            loss=loss,
            optimizer=self.optimizer,
            synthesizer=lambda shape: None,
            clock=clock,
            repeats=repeats,
        ).layers

    def gflop(self) -> float:
        """Floating-point operations of one batch of backprop, in 1e9."""
        with flop_clock(1.0) as clock:
            costs = self._costs_by(clock, 1, self.layers, self.x, self.y, self.task.loss)
        return sum(cost.total for cost in costs)

    def _fixed(self) -> LayerCost:
        """Of the second of three layers of one number."""
        x = torch.ones(1, 1, device=self.device)
        layers = [_Scale().to(self.device), _Scale().to(self.device), nn.Identity()]
        return self._costs(layers, x, x, lambda output, y: output.sum())[1]

    def _interfaces(self) -> dict[str, list[InterfaceProfile]]:
        self.refused["local"] = "the cost of auxiliary heads is not measured yet"
        found = {}
        for rule, stages in itertools.product(RULES, DEPTHS):
            known: dict[tuple[int, ...], InterfaceProfile] = {}
            try:
                for shape in self.shapes[:-1]:
                    if shape not in known:
                        known[shape] = self._interface(rule, stages, shape)
            except UserError as error:
                self.refused[rule] = str(error)
                continue
            found[f"{rule} {stages}"] = [known[shape] for shape in self.shapes[:-1]]
        return found

    def _interface(self, rule: str, stages: int, shape: tuple[int, ...]) -> InterfaceProfile:
        shared = {name: getattr(self.config, name) for name in JobConfig.__dataclass_fields__}
        config = TrainConfig(**shared | {"rule": rule, "cut": ""})
        labels = label_size_of(self.task.condition, self.y) if rule == "cdni" else 0
        h = torch.randn(len(self.y), *shape, device=self.device)
        measured, made = [], None
        for clock, repeats in self._clocks():
            made = synthesizer_for(config, self.task, shape, labels, stages, 0, self.device)
            measured.append(measure_interface(made, h, self.y, clock, repeats))
        assert made is not None
        optimizer = made.optimizer
        entry = 2 * h.nbytes + (self.task.condition(self.y).nbytes if rule == "cdni" else 0)
        return InterfaceProfile(
            InterfaceCost(max(m.predict for m in measured), max(m.train for m in measured)),
            state_bytes=2 * _bytes(_parameters_of(optimizer)) + _state_bytes(optimizer),
            replay_bytes=self.config.sg.replay_window * entry if made.replay else 0,
        )

    def _optimizer_bytes(self, layer: nn.Module) -> int:
        """What the optimizer keeps for a layer once it has made a step."""
        parameters = [p for p in copy.deepcopy(layer).parameters() if p.requires_grad]
        if not parameters:
            return 0
        optimizer = self.optimizer(parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        return _state_bytes(optimizer)

    def _load(self) -> float:
        times, batches = [], self.data.training(1)
        for _ in range(min(8, self.data.steps_per_epoch)):
            begun = time.perf_counter()
            next(batches)
            times.append(time.perf_counter() - begun)
        return statistics.median(times)


def saved_bytes(layers: list[nn.Module], x: Tensor) -> tuple[list[int], list[int]]:
    """Bytes that autograd keeps of each layer for the backward of the batch x (B, ...), and of its output.

    What two layers keep both (the output of one, the input of the next) counts for the first; parameters,
    buffers and the batch itself do not count.
    """
    layers = copy.deepcopy(layers)
    lasting = {_address(t) for layer in layers for t in (*layer.parameters(), *layer.buffers())}
    kept = {address: 0 for address in (*lasting, _address(x))}
    saved, outputs = [], []

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(_address(tensor), tensor.untyped_storage().nbytes())
        return tensor

    before = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for layer in layers:
            x = layer.train()(x)
            saved.append(sum(kept.values()) - before)
            before = sum(kept.values())
            outputs.append(x.nbytes)
    return saved, outputs


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _state_bytes(optimizer: Optimizer) -> int:
    return _bytes(v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor))


def _bytes(tensors: Iterator[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
