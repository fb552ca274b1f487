"""Measures the cost of a network whose layers do not fit into memory together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from torch import Tensor, nn

from dni_async.optim import OptimizerFactory
from dni_async.partition.costs import (
    ROUNDS,
    SECONDS,
    Clock,
    Costs,
    InterfaceCost,
    LayerCost,
    LayerRun,
    Loss,
    RuleRun,
    Run,
    measure_rounds,
)
from dni_async.rules import Rule


def measure_one_by_one(
    layers: Iterable[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    count: int,
    loss: Loss,
    optimizer: OptimizerFactory,
    rule: Callable[[int], Rule | None],
    clock: Clock,
    rounds: int = ROUNDS,
) -> Costs:
    """Return the costs as `measure_costs` does, for `count` layers that are taken one at a time.

    Layers that look alike are measured once. A machine that is slower for a while makes the layers of that
    time look slower. rule: returns the one after layer i, or None.
    """
    costs = Costs([], [])
    known: dict[Hashable, tuple[LayerCost, InterfaceCost]] = {}
    for i, layer in enumerate(layers):
        last = i == count - 1
        look = (repr(layer), tuple((p.shape, p.requires_grad) for p in layer.parameters()), i > 0, last)
        run = LayerRun(layer, x, y if last else None, loss, optimizer, needs_grad=i > 0)
        next(run())  # as far as the output
        made = None if last or not run.output.is_floating_point() else rule(i)
        key = (look, x.shape, made)
        if key not in known:
            known[key] = _measure(run, RuleRun(made, run.output, y) if made else None, clock, rounds, count)
        costs.layers.append(known[key][0])
        if not last:
            costs.interfaces.append(known[key][1])
        x = run.output
        del run  # with the memory of the layer, before the next one gets some
    return costs


def _measure(
    run: LayerRun, rule_run: RuleRun | None, clock: Clock, rounds: int, count: int
) -> tuple[LayerCost, InterfaceCost]:
    runs: list[Run] = [run, rule_run] if rule_run else [run]
    seconds = measure_rounds(runs, clock, rounds, SECONDS / count)
    return run.cost(seconds[run]), InterfaceCost(*seconds[rule_run]) if rule_run else InterfaceCost()
