"""Measures the cost of a network whose layers do not fit into memory together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from dni_async.optim import OptimizerFactory
from dni_async.partition.costs import (
    ROUNDS,
    SECONDS,
    Clock,
    Costs,
    InterfaceCost,
    LayerRun,
    Loss,
    RuleRun,
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

    A machine that is slower for a while makes the layers of that time look slower. rule: returns the one
    after layer i, or None.
    """
    costs = Costs([], [])
    for i, layer in enumerate(layers):
        last = i == count - 1
        run = LayerRun(layer, x, y if last else None, loss, optimizer, needs_grad=i > 0)
        for _ in run():
            pass
        made = None if last or not run.output.is_floating_point() else rule(i)
        rule_run = RuleRun(made, run.output, y) if made else None
        measured = measure_rounds([run, *([rule_run] if rule_run else [])], clock, rounds, SECONDS / count)
        costs.layers.append(run.cost(measured[run]))
        if not last:
            costs.interfaces.append(InterfaceCost(*measured[rule_run]) if rule_run else InterfaceCost())
        x = run.output
    return costs
