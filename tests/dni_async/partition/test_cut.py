from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_async.errors import UserError
from dni_async.partition.costs import Costs
from dni_async.partition.cut import best_cut, check_cut, cut_with_weights, stage_bounds
from tests.support.stages import costs


def slowest(given: Costs, cut: list[int]) -> float:
    return max(given.of_stage(*bounds) for bounds in stage_bounds(cut, len(given.layers)))


EXAMPLE = costs([4, 2, 2, 2, 2], [1, 1, 1, 1])


def test_a_stage_costs_its_layers_and_the_sg_network_at_its_end() -> None:
    assert [EXAMPLE.of_stage(*bounds) for bounds in ((0, 1), (0, 2), (2, 5), (0, 5))] == [5, 7, 6, 12]


def test_the_best_cut_of_the_example_is_found() -> None:
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


@pytest.mark.parametrize(
    ("has_weights", "stages", "cut"),
    [
        ("yes yes yes yes yes", 2, [2]),  # as `best_cut`, which is 1, 3 for three stages
        ("no yes no yes yes", 2, [2]),
        ("yes no yes no yes", 3, [1, 3]),
        ("yes no no yes yes", 3, [3, 4]),
        ("no yes no yes yes", 3, [3, 4]),
        ("yes no no no yes", 2, [2]),
        ("yes yes no no no", 2, [1]),
        ("yes no yes no yes", 4, [1, 2, 3]),  # there are but three layers with weights
    ],
)
def test_every_stage_has_weights_where_that_is_possible(
    has_weights: str, stages: int, cut: list[int]
) -> None:
    assert best_cut(EXAMPLE, 3) == [1, 3]
    assert cut_with_weights(EXAMPLE, [word == "yes" for word in has_weights.split()], stages) == cut


def test_merged_layers_cost_their_sum_and_have_the_sg_network_of_the_last() -> None:
    assert costs([3, 5, 3, 1], [1, 9, 2]).merged([0, 1, 3]) == costs([3, 8, 1], [1, 2])


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
def test_a_cut_gives_the_bounds_of_the_stages(cut: list[int], bounds: list[tuple[int, int]]) -> None:
    assert stage_bounds(cut, 5) == bounds
