"""An error in a user's task: one line with type, place and text, from the rank that failed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from launch.config.train import TrainConfig
from tests.support.forks import Job
from tests.support.tiny_task import CLASSES, FEATURES, Tiny, five_layers

IN_RANK_0 = "rank 0, before the first step: "


class Missing(nn.Module):
    """Fails at its n-th batch in training."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        return {}["dim"] if self.left == 0 else x


class Samples(Dataset):
    """The last of them is missing."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(FEATURES), torch.tensor([index % CLASSES, {}["dim"]][index == 19])


class Mislabelled(Dataset):
    """Its last sample has a label that is no class."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(FEATURES), CLASSES if index == 19 else index % CLASSES


class Wrong(Tiny):
    """Fails in one place."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def layers(self) -> list[nn.Module]:
        if self.where == "layers":
            {}["dim"]
        layers = five_layers()
        batches = {"forward": 1, "stage 1": 3}.get(self.where, -1)
        return [*layers[:4], nn.Sequential(layers[4], Missing(batches))]

    def data(self, root: Path | None = None):  # type: ignore[no-untyped-def]
        if self.where == "data":
            {}["dim"]
        if self.where == "labels":
            return Mislabelled(), Mislabelled()
        return (Samples(), Samples()) if self.where == "__getitem__" else super().data(root)

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        return {}["dim"] if self.where == "loss" else super().loss(output, y)

    def metric(self, output: Tensor, y: Tensor) -> Tensor:
        return {}["dim"] if self.where == "metric" else super().metric(output, y)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("where", "function", "status", "line"),
    [
        ("layers", "layers", 1, IN_RANK_0 + "KeyError: 'dim'"),
        ("stage 1", "forward", 1, r"stage 1 \(rank 1\), at step 2: KeyError: 'dim'"),
        pytest.param("data", "data", 1, IN_RANK_0 + "KeyError: 'dim'", marks=SLOW),
        pytest.param("__getitem__", "__getitem__", 1, ".*KeyError: 'dim'", marks=SLOW),
        pytest.param("loss", "loss", 2, r"the task's loss does not take .* \(KeyError: 'dim'\)", marks=SLOW),
        pytest.param("metric", "metric", 2, r"the task's metric does not .* \(KeyError: 'dim'\)", marks=SLOW),
        pytest.param("forward", "forward", 1, r".*: KeyError: 'dim'", marks=SLOW),
    ],
)
def test_an_error_in_a_task_is_reported_with_type_place_and_text(
    where: str, function: str, status: int, line: str, tmp_path: Path
) -> None:
    config = TrainConfig.of(batch_size=16, epochs=1, cut="2")
    with Job(config, Wrong(where), 2, tmp_path) as job:
        assert status in job.statuses()
    (reported,) = job.lines()
    place = rf"\({re.escape('tests/launch/job/test_task_errors.py')}:\d+ in {function}\(\)\)"
    assert re.fullmatch(f"dni-async: {line} {place}", reported), reported


@pytest.mark.parametrize(
    ("settings", "ranks"),
    [
        ({"rule": "cdni", "cut": "2"}, 2),  # whose first stage needs the labels, too
        pytest.param({"rule": "dni", "cut": "2"}, 2, marks=SLOW),
        pytest.param({"engine": "backprop"}, 1, marks=SLOW),
        pytest.param({"engine": "ddp"}, 2, marks=SLOW),
    ],
    ids=str,
)
def test_a_label_that_is_no_class_is_bad_input_also_where_only_its_batch_can_show_it(
    settings: dict[str, Any], ranks: int, tmp_path: Path
) -> None:
    config = TrainConfig.of(batch_size=4, epochs=1, seed=1, **settings)
    with Job(config, Wrong("labels"), ranks, tmp_path) as job:
        assert 2 in job.statuses()
    (line,) = job.lines()
    assert re.search(
        rf"labels of torch.int64 from 0 to {CLASSES} do not fit {CLASSES} classes; use int", line
    )
