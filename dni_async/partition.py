"""Where to cut a list of layers so that the slowest stage is as fast as it can be."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.synthesizer import Synthesizer
from dni_async.updater import OptimizerFactory, Updater

Clock = Callable[[], float]
"""Gives the time in seconds (this package has no clock of its own)."""


@dataclass(slots=True)
class Costs:
    """Seconds per training batch."""

    layers: list[float]
    """Forward, backward and update of each layer."""
    interfaces: list[float]
    """The SG network after each layer but the last, paid by the stage that ends there."""
    shapes: list[tuple[int, ...]]
    """Output shape of each layer, without the batch."""


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
    """The cut whose slowest stage is fastest, by dynamic programming over (stages, layers).

        layers       4  2  2  2  2      SG after each  1  1  1  1
        2 stages     4+2+1 | 2+2+2      slowest 7; any other cut gives 8 or more

    Raises UserError when there are more stages than layers.
    """
    count = len(costs.layers)
    if not 1 <= stages <= count:
        raise UserError(f"{stages} stages cannot share {count} layers; use 1 to {count} stages")
    total = [0.0]
    for cost in costs.layers:
        total.append(total[-1] + cost)
    interface = [*costs.interfaces, 0.0]

    # best[end]: (cost of the slowest stage, cut) for the layers before `end`
    best: dict[int, tuple[float, list[int]]]
    best = {end: (total[end] + interface[end - 1], []) for end in range(1, count + 1)}
    for stage in range(1, stages):
        best = {
            end: min(
                (max(slowest, total[end] - total[start] + interface[end - 1]), [*cut, start])
                for start, (slowest, cut) in best.items()
                if start < end
            )
            for end in range(stage + 1, count + 1)
        }
    return best[count][1]


def measure_costs(
    layers: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: OptimizerFactory,
    synthesizer: Callable[[tuple[int, ...]], Synthesizer | None],
    clock: Clock,
    repeats: int = 7,
) -> Costs:
    """Run every layer, and the SG network after it, on a batch and take the median times.

    x, y: one batch. synthesizer: makes the SG network for an interface shape, or None where the rule
    has none. The layers learn while they are measured, so hand in a copy.
    """
    costs = Costs([], [], [])
    for i, layer in enumerate(layers):
        last = i == len(layers) - 1
        run = _LayerRun(layer, x, y if last else None, loss, optimizer, needs_grad=i > 0)
        costs.layers.append(_median(run, repeats, clock))
        x = run.output
        costs.shapes.append(tuple(x.shape[1:]))
        if not last:
            sg = synthesizer(costs.shapes[-1])
            costs.interfaces.append(_median(_SGRun(sg, x, y), repeats, clock) if sg else 0.0)
    return costs


def _median(run: Callable[[], None], repeats: int, clock: Clock) -> float:
    times = []
    for _ in range(repeats + 1):
        start = clock()
        run()
        times.append(clock() - start)
    return statistics.median(times[1:])


class _LayerRun:
    """One training step of one layer."""

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

    def __call__(self) -> None:
        x = self.x.clone().requires_grad_(self.needs_grad and self.x.is_floating_point())
        h = self.layer(x.clone() if self.needs_grad else x)
        self.output = h.detach()
        if h.requires_grad:
            h.backward(torch.ones_like(h) / h.numel()) if self.y is None else self.loss(h, self.y).backward()
        self.updater.step()


class _SGRun:
    """One prediction and one target of an SG network."""

    def __init__(self, synthesizer: Synthesizer, h: Tensor, y: Tensor) -> None:
        self.synthesizer, self.h, self.y = synthesizer, h, y
        self.target = TargetGradient(0, 0, torch.full_like(h, 1e-5))

    def __call__(self) -> None:
        self.synthesizer.predict(0, 0, self.h, self.y)
        self.synthesizer.take(self.target)
