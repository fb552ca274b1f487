from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dni_async.errors import UserError
from launch.config.task import TaskConfig
from launch.job.layers import NetworkLayers, build_layers
from tests.support.source_tree import ROOT
from tests.support.tiny_task import Tiny, five_layers

PEAK_BYTES = 1.2e9

WIDE = """
import resource
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launch.engines.registry import Engine
from launch.job.stage_factory import build_stage
from tasks.base import Task


class Wide(Task):
    classes = 10

    def layers(self):
        return [nn.Linear(8192, 8192) for _ in range(8)]

    def data(self, root):
        return (TensorDataset(torch.randn(64, 8192), torch.arange(64) % 10),) * 2


engine = Engine(together=True, uses_rule=True, cut=True)


def run(context, recorder):
    stage, names = build_stage(context.config, context.task, context.plan, context.index, torch.device("cpu"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open(f"peak-{context.index}", "w") as file:
        file.write(f"[{peak}, {len(names)}]")
"""


@pytest.mark.slow
@pytest.mark.parametrize("cut", [[], ["--cut", "2,4,6"]])
def test_the_peak_memory_of_a_rank_at_its_start_is_that_of_its_stage(tmp_path: Path, cut: list[str]) -> None:
    """8 layers of 268 MB in 4 stages; Python, torch and this project take 240 MB."""
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "__init__.py").write_text("")
    (tmp_path / "wide" / "network.py").write_text(WIDE)
    command = "-m launch.train --stages 4 --task wide.network:Wide --engine wide.network --batch-size 16"
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": ""}
    subprocess.run([sys.executable, *command.split(), *cut], cwd=tmp_path, env=environment, timeout=110)
    for rank in range(4):
        peak, layers = json.loads((tmp_path / f"peak-{rank}").read_text())
        assert layers == 2 and peak < PEAK_BYTES, (rank, layers, peak)


def test_only_the_layers_that_are_built_have_memory() -> None:
    layers = NetworkLayers(Tiny(), TaskConfig(seed=5))
    built = nn.Sequential(*layers.build(2, 4))
    assert all(not tensor.is_meta for tensor in built.state_dict().values())
    others = [*layers.structure[:2], *layers.structure[4:]]
    assert all(p.is_meta for layer in others for p in layer.parameters())


def test_initial_weights_are_those_of_the_uncut_network() -> None:
    whole = nn.Sequential(*build_layers(Tiny(), TaskConfig(seed=5))).state_dict()
    for first in range(5):
        part = nn.Sequential(*NetworkLayers(Tiny(), TaskConfig(seed=5)).build(first, 5))
        for name, value in part.state_dict().items():
            number, _, rest = name.partition(".")
            assert torch.equal(value, whole[f"{int(number) + first}.{rest}"])


def test_a_part_of_a_file_is_loaded_into_the_layers_that_are_built(tmp_path: Path) -> None:
    given = nn.Sequential(*five_layers()).state_dict()
    save_file(given, tmp_path / "given.safetensors")
    config = TaskConfig(init=str(tmp_path / "given.safetensors"))
    part = nn.Sequential(*NetworkLayers(Tiny(), config).build(2, 5)).state_dict()
    assert torch.equal(part["0.weight"], given["2.weight"]) and torch.equal(part["2.bias"], given["4.bias"])


def test_a_file_that_does_not_fit_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"lacks 0\.0\.bias"):
        NetworkLayers(Tiny(), TaskConfig(init=str(tmp_path / "other.safetensors")))
