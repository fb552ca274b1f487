from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from dni_async.optim import optimizer_factory
from dni_async.partition.costs import Costs, measure_costs
from dni_async.partition.large_costs import measure_one_by_one
from dni_async.rules import DniRule
from tests.support.stages import CLASSES, FEATURES, fcn, synthesizer


def measured(layers: list[nn.Module], one_by_one: bool) -> Costs:
    ticks = itertools.count()
    settings = {
        "loss": F.cross_entropy,
        "optimizer": optimizer_factory("adam", 1e-3),
        "rule": lambda i: DniRule(synthesizer()) if i == 1 else None,
        "clock": lambda: float(next(ticks)),
        "rounds": 2,
    }
    batch = torch.randn(6, FEATURES), torch.arange(6) % CLASSES
    if one_by_one:
        return measure_one_by_one(iter(layers), *batch, count=len(layers), **settings)  # type: ignore[arg-type]
    return measure_costs(layers, *batch, **settings)  # type: ignore[arg-type]


def test_layers_one_by_one_cost_what_they_cost_together() -> None:
    assert measured(fcn(), True) == measured(fcn(), False)


def test_a_layer_is_asked_for_when_the_one_before_it_is_measured() -> None:
    asked: list[int] = []

    def layers() -> Iterator[nn.Module]:
        for i, layer in enumerate(fcn()):
            asked.append(i)
            yield layer

    rules: list[tuple[int, list[int]]] = []
    measure_one_by_one(
        layers(),
        torch.randn(6, FEATURES),
        torch.arange(6) % CLASSES,
        count=4,
        loss=F.cross_entropy,
        optimizer=optimizer_factory("adam", 1e-3),
        rule=lambda i: rules.append((i, list(asked))),  # type: ignore[func-returns-value]
        clock=lambda: 0.0,
        rounds=1,
    )
    assert rules == [(0, [0]), (1, [0, 1]), (2, [0, 1, 2])]


def test_layers_that_look_alike_are_measured_once() -> None:
    readings = itertools.count()
    layers: list[nn.Module] = [nn.Linear(4, 4) for _ in range(6)]
    costs = measure_one_by_one(
        layers,
        torch.randn(6, 4),
        torch.arange(6) % 4,
        count=6,
        loss=F.cross_entropy,
        optimizer=optimizer_factory("adam", 1e-3),
        rule=lambda i: None,
        clock=lambda: float(next(readings)),
        rounds=1,
    )
    assert len(costs.layers) == 6 and len(costs.interfaces) == 5
    assert next(readings) == 3 * 5  # the first, those in the middle, the last
