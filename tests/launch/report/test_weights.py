"""Parts of the weights on disk fit the uncut network."""

import itertools
import os

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dni_async.errors import UserError
from launch.report.weights import load_all, save_part
from tests.support.tiny_task import five_layers


def save(folder, layers, cut):
    bounds = [0, *cut, len(layers)]
    for stage, (first, end) in enumerate(itertools.pairwise(bounds)):
        save_part(folder, stage, first, nn.Sequential(*layers[first:end]))


@pytest.mark.parametrize("cut", [[], [2], [1, 3], [1, 2, 3, 4]])
def test_the_parts_load_strictly_into_the_whole(tmp_path, cut):
    layers = five_layers()
    save(tmp_path, layers, cut)
    state = load_all(tmp_path, len(cut) + 1)
    other = nn.Sequential(*five_layers())
    other.load_state_dict(state, strict=True)
    wanted = nn.Sequential(*layers).state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in other.state_dict().items())


def test_names_are_those_of_the_whole_network(tmp_path):
    save(tmp_path, five_layers(), [2])
    folder = tmp_path / "weights"
    assert sorted(os.listdir(folder)) == ["stage-0.safetensors", "stage-1.safetensors"]
    below = {"0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"}
    below |= {"0.1.running_mean", "0.1.running_var", "0.1.num_batches_tracked"}
    assert load_file(folder / "stage-0.safetensors").keys() == below
    above = {"2.weight", "2.bias", "4.weight", "4.bias"}
    assert load_file(folder / "stage-1.safetensors").keys() == above


def test_layers_that_share_a_weight_are_saved(tmp_path):
    shared = nn.Linear(3, 3)
    layers = nn.Sequential(shared, nn.ReLU(), shared)
    save_part(tmp_path, 0, 4, layers)
    state = load_all(tmp_path, 1)
    assert torch.equal(state["4.weight"], shared.weight) and torch.equal(state["6.weight"], shared.weight)


def test_a_second_run_replaces_the_part(tmp_path):
    save_part(tmp_path, 0, 0, nn.Sequential(nn.Linear(2, 2)))
    again = nn.Sequential(nn.Linear(2, 2))
    save_part(tmp_path, 0, 0, again)
    assert torch.equal(load_all(tmp_path, 1)["0.weight"], again[0].weight)


def test_a_missing_part_is_named(tmp_path):
    save(tmp_path, five_layers(), [2])
    with pytest.raises(UserError) as error:
        load_all(tmp_path, 3)
    path = tmp_path / "weights" / "stage-2.safetensors"
    assert str(error.value) == f"weights of stage 2 are missing ({path}); was the run finished?"
