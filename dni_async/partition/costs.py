"""Measures the cost of the layers of a network, and of the rule at each interface, by a given clock.

All of them run in turn, round by round: a machine that is slower for some rounds is slower for all of them,
and the median over the rounds ignores these rounds.

    round 0 (warms up)          round 1                     round 2 ..
    layers a b c, rules ab bc   layers a b c, rules ab bc   ..
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dni_async.messages import TargetGradient
from dni_async.optim import OptimizerFactory, Updater
from dni_async.rules import Rule

Clock = Callable[[], float]
"""Return the time in seconds (this package has no clock of its own)."""
Loss = Callable[[Tensor, Tensor], Tensor]
ROUNDS, LEAST_ROUNDS = 50, 5
"""Most rounds, and the fewest even if they exceed `SECONDS`."""
SECONDS = 2.0
"""Time for all rounds together."""
LARGE = 2**21
"""Parameters of a layer above which its update is measured on a part of them: the state of an optimizer such
as Adam takes twice the memory of the weights."""


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Seconds per training batch of one layer."""

    forward: float
    backward: float
    update: float

    @property
    def total(self) -> float:
        """Seconds of a training step: forward, backward and update."""
        return self.forward + self.backward + self.update


@dataclass(frozen=True, slots=True)
class InterfaceCost:
    """Seconds per training batch of the rule at a stage's output."""

    predict: float = 0.0
    """To get the gradient, from an SG network or an auxiliary head."""
    train: float = 0.0
    """To learn from the target."""

    @property
    def total(self) -> float:
        """Seconds of prediction and training together."""
        return self.predict + self.train

    def per_target(self, every: int) -> InterfaceCost:
        """Return the mean cost if one batch in so many has a target."""
        return InterfaceCost(self.predict, self.train / every)


@dataclass(slots=True)
class Costs:
    """The cost of a network, layer by layer."""

    layers: list[LayerCost]
    interfaces: list[InterfaceCost]
    """Of the rule after each layer but the last, paid by the stage that ends there."""

    def of_stage(self, first: int, end: int) -> float:
        """Return the seconds per batch of a stage with these layers, including its rule."""
        interface = self.interfaces[end - 1].total if end < len(self.layers) else 0.0
        return sum(layer.total for layer in self.layers[first:end]) + interface

    def merged(self, starts: Sequence[int]) -> Costs:
        """Return the costs of groups of layers, which begin at `starts`, as if each were one layer."""
        bounds = list(itertools.pairwise([*starts, len(self.layers)]))
        groups = [self.layers[first:end] for first, end in bounds]
        times = [[(c.forward, c.backward, c.update) for c in group] for group in groups]
        return Costs(
            [LayerCost(*map(sum, zip(*group, strict=True))) for group in times],
            [self.interfaces[end - 1] for _, end in bounds[:-1]],
        )


class LayerRun:
    """One training step of one layer: forward, backward, update."""

    def __init__(
        self,
        layer: nn.Module,
        x: Tensor,
        y: Tensor | None,
        loss: Loss,
        optimizer: OptimizerFactory,
        needs_grad: bool,
    ) -> None:
        self.layer, self.x, self.y, self.loss = layer.train(), x, y, loss
        self.needs_grad = needs_grad
        self.trained = [p for p in layer.parameters() if p.requires_grad]
        self.parts = sum(p.numel() for p in self.trained) // LARGE + 1
        self.updated = self.trained
        """What the optimizer steps: the parameters; of a large layer the first of so many parts of each."""
        if self.parts > 1:
            self.updated = [nn.Parameter(self._part(p.detach())) for p in self.trained]
        self.updater = Updater(optimizer(self.updated) if self.updated else None)
        self.output = x

    def __call__(self) -> Iterator[None]:
        """One step."""
        x = self.x.clone().requires_grad_(self.needs_grad and self.x.is_floating_point())
        h = self.layer(x.clone() if self.needs_grad else x)
        self.output = h.detach()
        yield
        if h.requires_grad:
            h.backward(torch.ones_like(h) / h.numel()) if self.y is None else self.loss(h, self.y).backward()
        yield
        if self.parts > 1:
            for part, whole in zip(self.updated, self.trained, strict=True):
                part.grad, whole.grad = None if whole.grad is None else self._part(whole.grad), None
        self.updater.step()
        yield

    def _part(self, whole: Tensor) -> Tensor:
        return whole[: len(whole) // self.parts + 1] if whole.ndim else whole

    def cost(self, seconds: Sequence[float]) -> LayerCost:
        """Return the cost, from the seconds of the three sections."""
        forward, backward, update = seconds
        return LayerCost(forward, backward, update * self.parts)


class RuleRun:
    """The work of a rule for one batch: a gradient, and a target if it needs any."""

    def __init__(self, rule: Rule, h: Tensor, y: Tensor) -> None:
        self.rule, self.h, self.y = rule, h, y
        self.target = TargetGradient(0, 0, torch.full_like(h, 1e-5))

    def __call__(self) -> Iterator[None]:
        """One batch."""
        self.rule.gradient(0, 0, self.h, self.y)
        yield
        if self.rule.capabilities.needs_targets:
            self.rule.take_target(self.target, 0)
        yield


Run = LayerRun | RuleRun
"""Work in sections: a call yields at the end of each section."""
Seconds = dict[Run, list[float]]
"""Median seconds of each section of a run."""


def layer_runs(
    layers: Sequence[nn.Module], x: Tensor, y: Tensor, loss: Loss, optimizer: OptimizerFactory
) -> list[LayerRun]:
    """Return a run of every layer, with its input for the batch x (B, ...), y; layers learn as they run."""
    runs = []
    for i, layer in enumerate(layers):
        labels = y if i == len(layers) - 1 else None
        run = LayerRun(layer, x, labels, loss, optimizer, needs_grad=i > 0)
        for _ in run():
            pass
        runs.append(run)
        x = run.output
    return runs


def rule_runs(
    layers: Sequence[LayerRun], y: Tensor, rule: Callable[[int], Rule | None]
) -> list[RuleRun | None]:
    """Return a run of the rule after each layer but the last, shared by outputs that have the same rule.

    rule: returns the one after layer i, or None if the gradient costs nothing.
    """
    known: dict[Rule, RuleRun] = {}
    found: list[RuleRun | None] = []
    for i, run in enumerate(layers[:-1]):
        made = rule(i) if run.output.is_floating_point() else None  # whole numbers have no gradient
        found.append(known.setdefault(made, RuleRun(made, run.output, y)) if made else None)
    return found


def measure_rounds(
    runs: Iterable[Run], clock: Clock, rounds: int = ROUNDS, seconds: float = SECONDS
) -> Seconds:
    """Return the median seconds of every section, over the rounds after a warm-up round."""
    times: dict[Run, list[list[float]]] = {run: [] for run in runs}
    for run in times:
        for _ in run():
            pass
    begun = clock()
    for done in range(rounds):
        if done >= LEAST_ROUNDS and clock() - begun > seconds:
            break
        for run, readings in times.items():
            moments = [clock(), *(clock() for _ in run())]
            readings.append([after - before for before, after in itertools.pairwise(moments)])
    return {
        run: [statistics.median(section) for section in zip(*readings, strict=True)]
        for run, readings in times.items()
    }


def measure_costs(
    layers: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss,
    optimizer: OptimizerFactory,
    rule: Callable[[int], Rule | None],
    clock: Clock,
    rounds: int = ROUNDS,
) -> Costs:
    """Measure every layer of a network on a batch x (B, ...), y, and the rule after it.

    The layers learn while they are measured, so pass a copy. rule: see `rule_runs`.
    """
    whole = layer_runs(layers, x, y, loss, optimizer)
    between = rule_runs(whole, y, rule)
    measured = measure_rounds([*whole, *(run for run in between if run)], clock, rounds)
    return Costs(
        [run.cost(measured[run]) for run in whole],
        [InterfaceCost(*measured[run]) if run else InterfaceCost() for run in between],
    )
