"""A run starts from the weights of --init, whatever its engine and its cut."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.partition.from_module import from_module
from launch.config.task import TaskConfig
from launch.config.train import TrainConfig
from launch.export import ExportConfig, export
from launch.job.initial_weights import load_initial_weights
from launch.job.layers import build_layers
from launch.job.partition_plan import make_plan
from launch.job.stage_factory import build_stage
from tests.support.forks import Job
from tests.support.tiny_task import CLASSES, FEATURES, Tiny, data_of

WEIGHTS = ("weight", "bias")


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


def split_model() -> list[nn.Module]:
    """Three layers of a model, one of which has its weights under two names."""
    model = nn.Sequential(
        OrderedDict(first=nn.Linear(FEATURES, 8), middle=nn.Linear(8, 8), last=nn.Linear(8, CLASSES))
    )
    model.middle.register_parameter("again", model.middle.weight)
    return from_module(model, ["middle", "last"])


def test_layers_of_a_model_take_its_names_and_an_export_has_them(tmp_path: Path) -> None:
    state: dict[str, Tensor] = {}
    for layer in split_model():
        state |= layer.state_dict()
    assert state.keys() == {f"{name}.{kind}" for name in ("first", "middle", "last") for kind in WEIGHTS} | {
        "middle.again"
    }
    del state["middle.again"]  # as other programs write tied weights
    save_file(state, tmp_path / "a.safetensors")
    task = Tiny(split_model)
    config = TrainConfig.of(
        init=str(tmp_path / "a.safetensors"), batch_size=16, rule="frozen", epochs=1, cut="2"
    )
    with Job(config, task, 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    export(ExportConfig(run=str(job.out), to=str(tmp_path / "b.safetensors")))
    exported = load_file(tmp_path / "b.safetensors")
    assert exported.keys() == {*state, "middle.again"}
    assert all(torch.equal(exported[name], state[name]) for name in state if not name.startswith("last"))


def test_a_checkpoint_is_exported_with_the_names_of_the_model(tmp_path: Path) -> None:
    config = TrainConfig.of(batch_size=16, epochs=1, checkpoint_every=2, out="run")
    with Job(config, Tiny(split_model), 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    export(ExportConfig(run=str(job.out), to=str(tmp_path / "b.safetensors"), step=2))
    assert {"first.weight", "middle.again", "last.bias"} <= load_file(tmp_path / "b.safetensors").keys()


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.safetensors cannot be read \(.+\); give a \.safetensors file"):
        load_initial_weights(nn.Linear(1, 1), str(path))
