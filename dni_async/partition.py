"""Where to cut a list of layers so that the slowest stage is as fast as it can be."""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.rules import Rule
from dni_async.updater import OptimizerFactory, Updater

Clock = Callable[[], float]
"""Gives the time in seconds (this package has no clock of its own)."""


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Seconds per training batch of one layer."""

    forward: float
    backward: float
    update: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.forward + self.backward + self.update


@dataclass(frozen=True, slots=True)
class InterfaceCost:
    """Seconds per training batch of what a stage does at its output for want of the exact gradient."""

    predict: float = 0.0
    """The gradient at once, from an SG network or an auxiliary head."""
    train: float = 0.0
    """Learning from the target."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.predict + self.train


@dataclass(slots=True)
class Costs:
    """What a network costs, layer by layer."""

    layers: list[LayerCost]
    interfaces: list[InterfaceCost]
    """The SG network or auxiliary head after each layer but the last, paid by the stage that ends there."""
    shapes: list[tuple[int, ...]]
    """Output shape of each layer, without the batch."""

    def of_stage(self, first: int, end: int) -> float:
        """Seconds per batch of a stage of these layers, its rule included."""
        interface = self.interfaces[end - 1].total if end < len(self.layers) else 0.0
        return sum(layer.total for layer in self.layers[first:end]) + interface


def check_cut(cut: Sequence[int], layers: int) -> None:
    """A cut lists the first layer of every stage but the first, in increasing order."""
    bounds = [0, *cut, layers]
    if any(a >= b for a, b in itertools.pairwise(bounds)):
        given = ",".join(map(str, cut))
        raise UserError(
            f"cut {given} is not increasing between 1 and {layers - 1} (the model has {layers} layers)"
        )


def stage_bounds(cut: Sequence[int], layers: int) -> list[tuple[int, int]]:
    """(first, end) layer of each stage."""
    bounds = [0, *cut, layers]
    return list(itertools.pairwise(bounds))


def best_cut(costs: Costs, stages: int) -> list[int]:
    """The cut whose slowest stage is fastest.

        layers       4  2  2  2  2      SG after each  1  1  1  1
        2 stages     4+2+1 | 2+2+2      slowest 7; any other cut gives 8 or more

    Bisects the cost of the slowest stage; whether a limit can be kept is a question of `_Limit`, so that
    a thousand layers take a fraction of a second. Raises UserError when there are more stages than layers.
    """
    count = len(costs.layers)
    if not 1 <= stages <= count:
        raise UserError(f"{stages} stages cannot share {count} layers; use 1 to {count} stages")
    reach = _Reach(costs)
    low, high = 0.0, reach.total[-1] + max(reach.interface)
    while low < (middle := (low + high) / 2) < high and high - low > 1e-12 * high:
        if _Limit(reach, middle).allows(stages):
            high = middle
        else:
            low = middle
    return _Limit(reach, high).cut(stages)


class _Reach:
    """Costs added up, so that any stage's cost is a subtraction."""

    def __init__(self, costs: Costs) -> None:
        self.total = list(itertools.accumulate((layer.total for layer in costs.layers), initial=0.0))
        self.interface = [*(interface.total for interface in costs.interfaces), 0.0]
        self.count = len(costs.layers)

    def stage(self, first: int, end: int) -> float:
        return self.total[end] - self.total[first] + self.interface[end - 1]


class _Limit:
    """Cuts in which no stage costs more than `limit`.

    fewest[s], most[s]: into how many such stages the layers from s to the last can be cut at least and
    at most (none: inf and -inf). Every number between is possible too: with (s, e) also any (s', e),
    s < s' < e, keeps the limit, so one can follow a cut into many stages up to any place and from there
    a cut into few, and each step further changes the number by one more at most.
    """

    def __init__(self, reach: _Reach, limit: float) -> None:
        self.reach, self.limit = reach, limit
        count = reach.count
        self.fewest = [math.inf] * count + [0]
        self.most = [-math.inf] * count + [0]
        every_layer = all(reach.stage(i, i + 1) <= limit for i in range(count))
        for first in reversed(range(count)):
            furthest = self._furthest(first)
            self.fewest[first] = 1 + self.fewest[furthest] if furthest > first else math.inf
            # stages of one layer each are the most; where some layer costs too much, stages are short
            ends = [first + 1] if every_layer else self._ends(first, furthest)
            self.most[first] = max((1 + self.most[end] for end in ends), default=-math.inf)

    def allows(self, stages: int, first: int = 0) -> bool:
        """Whether the layers from `first` on can be cut into so many stages."""
        return self.fewest[first] <= stages <= self.most[first]

    def cut(self, stages: int) -> list[int]:
        """The first of these cuts in lexical order; there must be one."""
        first, cut = 0, []
        for left in reversed(range(1, stages)):
            ends = self._ends(first, self.reach.count)
            first = next(end for end in ends if self.allows(left, end))
            cut.append(first)
        return cut

    def _furthest(self, first: int) -> int:
        """The last end of a stage that begins with layer `first`; `first` when there is none."""
        total = self.reach.total
        end = bisect.bisect_right(total, total[first] + self.limit, lo=first) - 1
        while end > first and self.reach.stage(first, end) > self.limit:
            end -= 1
        return end

    def _ends(self, first: int, furthest: int) -> Iterator[int]:
        return (end for end in range(first + 1, furthest + 1) if self.reach.stage(first, end) <= self.limit)


def measure_costs(
    layers: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: OptimizerFactory,
    rule: Callable[[tuple[int, ...]], Rule | None],
    clock: Clock,
    repeats: int = 7,
) -> Costs:
    """Run every layer, and the rule after it, on a batch and take the median times.

    x, y: one batch. rule: makes the rule for an interface shape, or None where its gradient costs
    nothing. The layers learn while they are measured, so hand in a copy.
    """
    costs = Costs([], [], [])
    for i, layer in enumerate(layers):
        last = i == len(layers) - 1
        run = _LayerRun(layer, x, y if last else None, loss, optimizer, needs_grad=i > 0)
        costs.layers.append(LayerCost(*_medians(run, repeats, clock)))
        x = run.output
        costs.shapes.append(tuple(x.shape[1:]))
        if not last:
            at_output = rule(costs.shapes[-1])
            costs.interfaces.append(measure_interface(at_output, x, y, clock, repeats))
    return costs


def measure_interface(
    rule: Rule | None, h: Tensor, y: Tensor, clock: Clock, repeats: int = 7
) -> InterfaceCost:
    """Median times of one gradient and one target at h (B, ...); nothing without a rule."""
    if rule is None:
        return InterfaceCost()
    return InterfaceCost(*_medians(_RuleRun(rule, h, y), repeats, clock))


_Run = Callable[[], Iterator[None]]
"""Some work in sections: it yields at the end of each, the last one included."""


def _medians(run: _Run, repeats: int, clock: Clock) -> list[float]:
    """Median seconds of each section over `repeats` runs, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        readings = [clock()]
        readings += [clock() for _ in run()]
        times.append([after - before for before, after in itertools.pairwise(readings)])
    return [statistics.median(section) for section in zip(*times[1:], strict=True)]


class _LayerRun:
    """One training step of one layer: forward, backward, update."""

    def __init__(
        self,
        layer: nn.Module,
        x: Tensor,
        y: Tensor | None,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: OptimizerFactory,
        needs_grad: bool,
    ) -> None:
        self.layer, self.x, self.y, self.loss = layer.train(), x, y, loss
        self.needs_grad = needs_grad
        parameters = [p for p in layer.parameters() if p.requires_grad]
        self.updater = Updater(optimizer(parameters) if parameters else None)
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
        self.updater.step()
        yield


class _RuleRun:
    """What a rule does for a batch: one gradient, and one target if it wants any."""

    def __init__(self, rule: Rule, h: Tensor, y: Tensor) -> None:
        self.rule, self.h, self.y = rule, h, y
        self.target = TargetGradient(0, 0, torch.full_like(h, 1e-5))

    def __call__(self) -> Iterator[None]:
        """One batch."""
        self.rule.gradient(0, 0, self.h, self.y)
        yield
        if self.rule.wants_targets:
            self.rule.take_target(self.target, 0)
        yield
