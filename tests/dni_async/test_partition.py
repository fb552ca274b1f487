from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.partition import (
    Costs,
    InterfaceCost,
    LayerCost,
    best_cut,
    check_cut,
    measure_costs,
    stage_bounds,
)
from dni_async.rules import DniRule, LocalRule
from dni_async.rules.base import Rule
from dni_async.updater import optimizer_factory
from tests.dni_async.helpers import CLASSES, FEATURES, accuracy, costs, fcn, synthesizer


def slowest(given: Costs, cut: list[int]) -> float:
    return max(given.of_stage(*bounds) for bounds in stage_bounds(cut, len(given.layers)))


EXAMPLE = costs([4, 2, 2, 2, 2], [1, 1, 1, 1])


def test_a_stage_costs_its_layers_and_the_sg_network_at_its_end() -> None:
    assert [EXAMPLE.of_stage(*bounds) for bounds in ((0, 1), (0, 2), (2, 5), (0, 5))] == [5, 7, 6, 12]


def test_the_example() -> None:
    """2 stages: 4+2+1 | 2+2+2, slowest 7; any other cut gives 8 or more."""
    assert best_cut(EXAMPLE, 2) == [2]
    assert {start: slowest(EXAMPLE, [start]) for start in range(1, 5)} == {1: 8, 2: 7, 3: 9, 4: 11}


def test_the_sg_networks_cost_moves_the_cut() -> None:
    assert best_cut(costs([2, 2, 2, 2], [0, 0, 0]), 2) == [2]
    assert best_cut(costs([2, 2, 2, 2], [0, 5, 0]), 2) in ([1], [3])


def test_one_stage_has_no_cut_and_as_many_stages_as_layers_cut_everywhere() -> None:
    assert best_cut(EXAMPLE, 1) == []
    assert best_cut(EXAMPLE, 5) == [1, 2, 3, 4]


@settings(max_examples=60, deadline=None, database=None)
@given(st.data(), st.integers(1, 8))
def test_no_cut_is_better_than_the_best_cut(data: st.DataObject, layers: int) -> None:
    cost = st.integers(0, 20).map(float)
    given_costs = costs(
        data.draw(st.lists(cost, min_size=layers, max_size=layers)),
        data.draw(st.lists(cost, min_size=layers - 1, max_size=layers - 1)),
    )
    stages = data.draw(st.integers(1, layers))
    cut = best_cut(given_costs, stages)
    assert len(cut) == stages - 1
    check_cut(cut, layers)
    every = [list(c) for c in itertools.combinations(range(1, layers), stages - 1)]
    assert slowest(given_costs, cut) == min(slowest(given_costs, c) for c in every)


def test_a_thousand_layers_are_cut_at_once() -> None:
    """A dynamic program over (stages, layers) would take a billion steps here."""
    many = costs([3.0] + [1.0] * 2046 + [0.5], [0.25] * 2047)
    assert best_cut(many, 2048) == list(range(1, 2048))
    assert slowest(many, best_cut(many, 2)) == 1025.25
    assert slowest(many, best_cut(many, 1000)) == 3.25


@pytest.mark.parametrize("stages", [-1, 0, 6])
def test_stages_without_layers_are_the_users_to_mend(stages: int) -> None:
    with pytest.raises(UserError) as error:
        best_cut(EXAMPLE, stages)
    assert str(error.value) == f"{stages} stages cannot share 5 layers; use 1 to 5 stages"


@pytest.mark.parametrize("cut", [[], [1], [4], [1, 2, 3, 4], [2, 4]])
def test_an_increasing_cut_is_fine(cut: list[int]) -> None:
    check_cut(cut, 5)


@pytest.mark.parametrize("cut", [[0], [5], [6], [-1], [2, 2], [3, 1], [1, 5]])
def test_any_other_cut_is_the_users_to_mend(cut: list[int]) -> None:
    with pytest.raises(UserError) as error:
        check_cut(cut, 5)
    given_cut = ",".join(map(str, cut))
    assert str(error.value) == f"cut {given_cut} is not increasing between 1 and 4 (the model has 5 layers)"


@pytest.mark.parametrize(
    ("cut", "bounds"), [([], [(0, 5)]), ([2], [(0, 2), (2, 5)]), ([1, 4], [(0, 1), (1, 4), (4, 5)])]
)
def test_the_bounds_of_the_stages(cut: list[int], bounds: list[tuple[int, int]]) -> None:
    assert stage_bounds(cut, 5) == bounds


class Ticks:
    """A clock that shows the sum of the durations so far; each reading takes the next one."""

    def __init__(self, durations: Iterator[float]) -> None:
        self.durations = durations
        self.now = 0.0
        self.readings = 0

    def __call__(self) -> float:
        self.now += next(self.durations)
        self.readings += 1
        return self.now


def measure(layers: list[nn.Module], clock: Ticks, repeats: int, rule: Rule | None) -> Costs:
    return measure_costs(
        layers,
        torch.randn(6, FEATURES),
        torch.arange(6) % CLASSES,
        loss=F.cross_entropy,
        optimizer=optimizer_factory("adam", 1e-3),
        rule=lambda shape: rule,
        clock=clock,
        repeats=repeats,
    )


def test_costs_are_medians_of_each_section_without_the_first_run() -> None:
    """4 runs each: layer 0 (forward, backward, update), its SG network (predict, train), layer 1, ..

    A run starts with a reading of its own; the first one warms up.
    """
    between, warming = 1000.0, 99.0
    layer = [[1, 10, 7], [2, 40, 8], [30, 20, 9]]
    sg = [[5, 3], [4, 2], [6, 30]]
    runs = [
        [between, *sections]
        for many in [layer, sg] * 3 + [layer]
        for sections in [[warming] * len(many[0]), *many]
    ]
    clock = Ticks(iter(itertools.chain(*runs)))
    measured = measure(fcn(), clock, 3, DniRule(synthesizer()))
    assert measured.layers == [LayerCost(2, 20, 8)] * 4
    assert measured.interfaces == [InterfaceCost(5, 3)] * 3
    assert next(clock.durations, None) is None


def test_shapes_are_measured_without_the_batch() -> None:
    layers = [nn.Unflatten(1, (3, 4)), nn.Conv1d(3, 2, 3), nn.Flatten(), nn.Linear(4, CLASSES)]
    measured = measure(layers, Ticks(itertools.repeat(1.0)), 1, None)
    assert measured.shapes == [(3, 4), (2, 2), (4,), (CLASSES,)]


def test_without_an_sg_network_interfaces_cost_nothing() -> None:
    measured = measure(fcn(), Ticks(itertools.repeat(1.0)), 2, None)
    assert measured.interfaces == [InterfaceCost(0.0, 0.0)] * 3
    assert measured.layers == [LayerCost(1.0, 1.0, 1.0)] * 4


def test_the_sg_network_of_every_interface_is_asked_for_by_shape_and_run() -> None:
    asked: list[tuple[int, ...]] = []
    sg = synthesizer()

    def make(shape: tuple[int, ...]) -> Rule:
        asked.append(shape)
        return DniRule(sg)

    measure_costs(
        fcn(),
        torch.randn(6, FEATURES),
        torch.arange(6) % CLASSES,
        loss=F.cross_entropy,
        optimizer=optimizer_factory("adam", 1e-3),
        rule=make,
        clock=Ticks(itertools.repeat(1.0)),
        repeats=2,
    )
    assert asked == [(14,), (14,), (14,)]
    assert sg.updates == 3 * 3
    assert len(sg.ledger) == 0


def test_a_rule_without_targets_costs_its_gradient_alone() -> None:
    class Learned(LocalRule):
        taken = 0

        def take_target(self, target: TargetGradient, version: int) -> None:
            self.taken += 1

    head = nn.Linear(14, CLASSES)
    rule = Learned(head, optimizer_factory("sgd", 0.1)(list(head.parameters())), F.cross_entropy, accuracy)
    measure(fcn(), Ticks(itertools.repeat(1.0)), 2, rule)
    assert (rule.taken, rule.stats()["local_loss"] is not None) == (0, True)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.ReLU(inplace=True), nn.ReLU(inplace=True), nn.Linear(FEATURES, CLASSES)],
        [nn.Flatten(), nn.Dropout(0.5), nn.Linear(FEATURES, CLASSES)],
        [nn.Linear(FEATURES, CLASSES)],
    ],
)
def test_layers_in_place_or_without_parameters_are_measured_too(layers: list[nn.Module]) -> None:
    assert measure(layers, Ticks(itertools.repeat(1.0)), 2, None).layers == [LayerCost(1.0, 1.0, 1.0)] * len(
        layers
    )


def test_an_embedding_is_measured_on_whole_numbers() -> None:
    measured = measure_costs(
        [nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, CLASSES)],
        torch.randint(0, 9, (6, 3)),
        torch.arange(6) % CLASSES,
        loss=F.cross_entropy,
        optimizer=optimizer_factory("sgd", 0.1),
        rule=lambda shape: None,
        clock=Ticks(itertools.repeat(1.0)),
        repeats=1,
    )
    assert measured.shapes == [(3, 4), (12,), (CLASSES,)]
