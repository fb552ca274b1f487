"""Tasks whose layers and batches are trees of tensors; see `trees`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tasks.base import Task
from tests.support.tree_nets import CLASSES, TwoHeads, masked
from tests.support.trees import NETWORKS, two_losses, valid


class Items:
    """A map-style set of dicts, as Hugging Face's data sets give."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {name: column[i] for name, column in self.columns.items()}


class TreeTask(Task):
    """One of `trees.NETWORKS`, on data of chance."""

    classes = CLASSES

    def __init__(self, network: str = "skips", train: int = 50, test: int = 20) -> None:
        self.network, self.sizes = network.replace("-", " "), (train, test)

    def layers(self) -> list[nn.Module]:
        return NETWORKS[self.network][0]()

    def data(self, root: Path | None = None) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(0)
        train, test = (self._set(size, generator) for size in self.sizes)
        return train, test

    def _set(self, size: int, generator: torch.Generator) -> Any:
        inputs, targets = NETWORKS[self.network][1](size, generator)
        if isinstance(inputs, Tensor):
            return TensorDataset(inputs, targets)
        return Items(inputs | {"labels": targets})


class TwoTargets(TreeTask):
    """Masked sequences with a class per token and two numbers per sample; the output has two tensors."""

    def __init__(self) -> None:
        super().__init__("masked")

    def layers(self) -> list[nn.Module]:
        return [*masked()[:-1], TwoHeads()]

    def _set(self, size: int, generator: torch.Generator) -> Items:
        inputs, targets = NETWORKS["masked"][1](size, generator)
        return Items(inputs | {"tokens": targets, "sample": torch.randn(size, 2, generator=generator)})

    def batch(self, samples: Any) -> tuple[Any, Any]:
        inputs = {name: samples[name] for name in ("ids", "mask")}
        return inputs, {name: samples[name] for name in ("tokens", "sample")}

    def loss(self, output: Any, y: Any) -> Tensor:
        return two_losses(output, y)

    def metric(self, output: Any, y: Any) -> Tensor:
        return (output["tokens"].argmax(-1) == y["tokens"])[valid(y["tokens"])].float()


class MultiLabel(TreeTask):
    """Two inputs in a tuple, and several classes a sample."""

    multi_label = True

    def __init__(self) -> None:
        super().__init__("two inputs")

    def layers(self) -> list[nn.Module]:
        return [_ToDict(), *super().layers()]

    def _set(self, size: int, generator: torch.Generator) -> TensorDataset:
        inputs, targets = NETWORKS["two inputs"][1](size, generator)
        labels = torch.rand(size, CLASSES, generator=generator) < 0.4
        labels[torch.arange(size), targets] = True
        return TensorDataset(inputs["left"], inputs["right"], labels.float())


class _ToDict(nn.Module):
    def forward(self, inputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        left, right = inputs
        return {"left": left, "right": right}


TREE_TASKS: dict[str, Task] = {
    "skips": TreeTask("skips"),
    "two inputs": TreeTask("two inputs"),
    "masked": TreeTask("masked"),
    "two targets": TwoTargets(),
    "multi label": MultiLabel(),
}
