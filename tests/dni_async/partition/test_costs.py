from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni_async.messages import TargetGradient
from dni_async.optim import optimizer_factory
from dni_async.partition.costs import (
    LEAST_ROUNDS,
    Costs,
    InterfaceCost,
    LayerCost,
    LayerRun,
    Run,
    measure_costs,
    measure_rounds,
)
from dni_async.rules import DniRule, LocalRule, Rule
from tests.support.stages import CLASSES, FEATURES, accuracy, costs, fcn, synthesizer

EXAMPLE = costs([4, 2, 2, 2, 2], [1, 1, 1, 1])


def test_a_stage_costs_its_layers_and_the_rule_at_its_end() -> None:
    assert [EXAMPLE.of_stage(*bounds) for bounds in ((0, 1), (0, 2), (2, 5), (0, 5))] == [5, 7, 6, 12]


class Ticks:
    """A clock that shows the sum of the durations so far; each reading takes the next one."""

    def __init__(self, durations: Iterator[float]) -> None:
        self.durations = durations
        self.now = 0.0

    def __call__(self) -> float:
        self.now += next(self.durations)
        return self.now


def every_second() -> Ticks:
    return Ticks(itertools.repeat(1.0))


def measure(
    layers: list[nn.Module],
    rule: Callable[[int], Rule | None] = lambda i: None,
    clock: Ticks | None = None,
    rounds: int = 2,
    x: torch.Tensor | None = None,
) -> Costs:
    return measure_costs(
        layers,
        torch.randn(6, FEATURES) if x is None else x,
        torch.arange(6) % CLASSES,
        loss=F.cross_entropy,
        optimizer=optimizer_factory("adam", 1e-3),
        rule=rule,
        clock=clock or every_second(),
        rounds=rounds,
    )


def test_costs_are_medians_over_rounds_in_which_everything_has_its_turn() -> None:
    """The clock is read once, then per run once before it and at the end of every section.

    layer         forward 1 2 30    backward 10 40 20    update 7 8 9      over the three rounds
    SG network    predict 5 4 6     train    3 2 30
    """
    between = 1000.0
    layer = [[1, 10, 7], [2, 40, 8], [30, 20, 9]]
    sg = [[5, 3], [4, 2], [6, 30]]
    runs = [[between, *one[i]] for i in range(3) for one in [layer] * 4 + [sg]]
    clock = Ticks(iter([between, *itertools.chain(*runs)]))
    rule = DniRule(synthesizer())
    measured = measure(fcn(), lambda i: rule, clock, 3)
    assert measured.layers == [LayerCost(2, 20, 8)] * 4
    assert measured.interfaces == [InterfaceCost(5, 3)] * 3
    assert next(clock.durations, None) is None


def test_a_machine_that_slows_down_for_a_while_slows_every_layer_alike() -> None:
    """Three of five rounds last four times as long. One layer after the other, some would have cost four
    times what the others do."""
    readings = 4 * 4  # four layers, four each
    pace = [[seconds] * readings for seconds in (1.0, 4.0, 4.0, 1.0, 4.0)]
    clock = Ticks(iter([0.0, *itertools.chain(*pace)]))
    assert measure(fcn(), clock=clock, rounds=5).layers == [LayerCost(4.0, 4.0, 4.0)] * 4


class Once:
    """A run of one section that counts itself."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Iterator[None]:
        self.count += 1
        yield


@pytest.mark.parametrize(
    ("seconds", "rounds", "made"), [(100.0, 9, 9), (0.0, 9, LEAST_ROUNDS), (0.0, 3, 3), (15.0, 9, 7)]
)
def test_rounds_end_when_their_time_is_up_but_some_are_always_made(
    seconds: float, rounds: int, made: int
) -> None:
    """A round takes two seconds, looking at the clock before a further one takes one:
    10 seconds after 5 rounds, the looks show 11, 14 and 17 after 5, 6 and 7."""
    run = Once()
    runs: list[Run] = [run]  # type: ignore[list-item]
    measure_rounds(runs, every_second(), rounds, seconds)
    assert run.count == 1 + made  # one warms up


def test_without_a_rule_interfaces_cost_nothing() -> None:
    measured = measure(fcn())
    assert measured.interfaces == [InterfaceCost(0.0, 0.0)] * 3
    assert measured.layers == [LayerCost(1.0, 1.0, 1.0)] * 4


def test_outputs_that_have_the_same_rule_cost_the_same_and_are_measured_once() -> None:
    layers: list[nn.Module] = [nn.Linear(FEATURES, 14), nn.ReLU(), nn.Linear(14, 9), nn.Linear(9, CLASSES)]
    sg = synthesizer()
    rules = [rule := DniRule(sg), rule, None]
    measured = measure(layers, lambda i: rules[i], rounds=2)
    assert measured.interfaces == [InterfaceCost(1.0, 1.0)] * 2 + [InterfaceCost()]
    assert sg.updates == 3  # one warms up
    assert len(sg.pending) == 0


def test_a_rule_without_targets_costs_its_gradient_alone() -> None:
    class Learned(LocalRule):
        def take_target(self, target: TargetGradient, version: int) -> None:
            raise AssertionError("it wants none")

    head = nn.Linear(14, CLASSES)
    rule = Learned(head, optimizer_factory("sgd", 0.1)(list(head.parameters())), F.cross_entropy, accuracy)
    measure(fcn(), lambda i: rule)
    assert rule.stats()["local_loss"] is not None


@pytest.mark.parametrize(
    "layers",
    [
        [nn.ReLU(inplace=True), nn.ReLU(inplace=True), nn.Linear(FEATURES, CLASSES)],
        [nn.Flatten(), nn.Dropout(0.5), nn.Linear(FEATURES, CLASSES)],
        [nn.Unflatten(1, (3, 4)), nn.Conv1d(3, 2, 3), nn.Flatten(), nn.Linear(4, CLASSES)],
        [nn.Linear(FEATURES, CLASSES)],
    ],
)
def test_layers_in_place_or_without_parameters_are_measured_too(layers: list[nn.Module]) -> None:
    assert measure(layers).layers == [LayerCost(1.0, 1.0, 1.0)] * len(layers)


def test_an_embedding_is_measured_on_whole_numbers() -> None:
    layers: list[nn.Module] = [nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, CLASSES)]
    assert len(measure(layers, x=torch.randint(0, 9, (6, 3))).layers) == 3


def test_the_update_of_a_large_layer_is_measured_on_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, bias=False))
    whole = measure([layer], clock=every_second(), x=torch.randn(6, 8))
    monkeypatch.setattr("dni_async.partition.costs.LARGE", 40)
    parts = measure([layer], clock=every_second(), x=torch.randn(6, 8))
    assert parts.layers[0].update == 4 * whole.layers[0].update
    assert parts.layers[0].backward == whole.layers[0].backward
    run = LayerRun(layer, torch.randn(6, 8), None, F.cross_entropy, optimizer_factory("sgd", 1.0), False)
    before = [p.clone() for p in layer.parameters()]
    list(run())
    assert [p.grad for p in layer.parameters()] == [None] * 3
    for p, old in zip(layer.parameters(), before, strict=True):
        part = len(p) // 4 + 1
        assert torch.equal(p[part:], old[part:]) and not torch.equal(p[:part], old[:part])
