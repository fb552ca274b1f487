"""A run starts from the weights of --init, whatever its engine and its cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dni_async.errors import UserError
from launch.config.task import TaskConfig
from launch.config.train import TrainConfig
from launch.job.initial_weights import load_initial_weights
from launch.job.layers import build_layers
from launch.job.partition_plan import make_plan
from launch.job.stage_factory import build_stage
from tests.support.tiny_task import Tiny, data_of


def weights(**changes: Tensor | None) -> dict[str, Tensor]:
    """The weights of `Tiny` with another seed; a value of None leaves one out."""
    state = nn.Sequential(*build_layers(Tiny(), TaskConfig(seed=77))).state_dict()
    changed = {name.replace("_", "."): value for name, value in changes.items()}
    return {name: value for name, value in (state | changed).items() if value is not None}


@pytest.mark.parametrize("stages", [1, 3])
def test_every_stage_starts_from_its_weights_in_the_file(tmp_path: Path, stages: int) -> None:
    save_file(weights(), tmp_path / "a.safetensors")
    config = TrainConfig.of(
        init=str(tmp_path / "a.safetensors"), batch_size=16, cut="1,2" if stages > 1 else ""
    )
    task = Tiny()
    plan = make_plan(config, task, data_of(task, config), stages)
    parts = [build_stage(config, task, plan, i, torch.device("cpu"))[0].layers for i in range(stages)]
    found = [tensor for part in parts for tensor in part.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(found, weights().values(), strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"2_bias": None}, "lacks 2.bias; its names must be those of the uncut network"),
        ({"2_bias": None, "4_bias": None}, "lacks 2.bias and 1 more; its names"),
        ({"9_bias": torch.zeros(2)}, "has unknown 9.bias; its names must be"),
        ({"2_bias": torch.zeros(5)}, ": 2.bias has shape (5,), not (7,); give the weights of this network"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    save_file(weights(**changes), tmp_path / "a.safetensors")
    with pytest.raises(UserError) as error:
        load_initial_weights(nn.Sequential(*Tiny().layers()), str(tmp_path / "a.safetensors"))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.safetensors cannot be read \(.+\); give a \.safetensors file"):
        load_initial_weights(nn.Linear(1, 1), str(path))
