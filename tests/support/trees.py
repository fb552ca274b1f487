"""Networks whose layers take and return trees of tensors, and batches for them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.boundary import Boundary, walk
from dni_async.messages import Activation, Message
from dni_async.rules import LossRule
from dni_async.rules.base import Rule
from dni_async.stage.stage import Stage
from tests.support.stages import MakeUpdater, adam

FEATURES, WIDTH, CLASSES, STEPS, SYMBOLS, IGNORED = 6, 8, 3, 5, 11, -100

Batch = tuple[Any, Any]


class Branch(nn.Module):
    """x -> (first, x kept for later)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.linear(x))
        return h, x


class Narrow(nn.Module):
    """(h, x) -> (smaller h, h, x): a skip over two cuts, and the batch itself without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH - 2)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        h, x = inputs
        return torch.tanh(self.linear(h)), h, x


class Through(nn.Module):
    """(narrow, h, x) -> {narrow, skip, x}."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH - 2, WIDTH - 2)

    def forward(self, inputs: tuple[Tensor, Tensor, Tensor]) -> dict[str, Any]:
        narrow, h, x = inputs
        return {"narrow": F.relu(self.linear(narrow)), "skip": h, "x": x, "scale": 0.5}


class Join(nn.Module):
    """{narrow, skip, x} -> scores."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH - 2 + WIDTH + FEATURES, CLASSES)

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        parts = [inputs["narrow"], inputs["skip"], inputs["x"] * inputs["scale"]]
        return self.linear(torch.cat(parts, 1))


class TwoInputs(nn.Module):
    """{left (B, FEATURES), right (B, 2, 4)} -> {left (B, WIDTH), right (B, 2, 5)}, joined as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(FEATURES, WIDTH), nn.Linear(4, 5)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "left": F.relu(self.left(inputs["left"])),
            "right": torch.tanh(self.right(inputs["right"])),
        }


class Meet(nn.Module):
    """{left, right} -> (B, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH + 10, WIDTH)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return F.relu(self.linear(torch.cat([inputs["left"], inputs["right"].flatten(1)], 1)))


class Embed(nn.Module):
    """{ids (B, T), mask (B, T)} -> (h (B, T, WIDTH), mask, nothing)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(SYMBOLS, WIDTH)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, None]:
        return self.table(inputs["ids"]), inputs["mask"], None


class MaskedMean(nn.Module):
    """(h, mask, nothing) -> the same, with the mean over the positions of the mask added to h."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: tuple[Tensor, Tensor, None]) -> tuple[Tensor, Tensor, None]:
        h, mask, nothing = inputs
        assert nothing is None and mask.dtype is torch.bool
        weights = mask.unsqueeze(-1).to(h.dtype)
        mean = (h * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
        return F.relu(self.linear(h + mean)), mask, None


class Read(nn.Module):
    """(h, mask, nothing) -> scores (B, T, CLASSES)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: tuple[Tensor, Tensor, None]) -> Tensor:
        return self.linear(inputs[0])


def skips() -> list[nn.Module]:
    torch.manual_seed(0)
    return [Branch(), Narrow(), Through(), Join()]


def two_inputs() -> list[nn.Module]:
    torch.manual_seed(0)
    return [TwoInputs(), Meet(), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)]


def masked() -> list[nn.Module]:
    torch.manual_seed(0)
    return [Embed(), MaskedMean(), MaskedMean(), Read()]


def skips_batch(rows: int, generator: torch.Generator) -> Batch:
    x = torch.randn(rows, FEATURES, generator=generator)
    return x, torch.randint(CLASSES, (rows,), generator=generator)


def two_inputs_batch(rows: int, generator: torch.Generator) -> Batch:
    left = torch.randn(rows, FEATURES, generator=generator)
    right = torch.randn(rows, 2, 4, generator=generator)
    return {"left": left, "right": right}, torch.randint(CLASSES, (rows,), generator=generator)


def masked_batch(rows: int, generator: torch.Generator) -> Batch:
    """Every third label is ignored."""
    ids = torch.randint(SYMBOLS, (rows, STEPS), generator=generator)
    labels = ids % CLASSES
    labels[torch.rand(ids.shape, generator=generator) < 0.3] = IGNORED
    mask = torch.rand(ids.shape, generator=generator) < 0.8
    return {"ids": ids, "mask": mask}, labels


NETWORKS: dict[str, tuple[Callable[[], list[nn.Module]], Callable[[int, torch.Generator], Batch]]] = {
    "skips": (skips, skips_batch),
    "two inputs": (two_inputs, two_inputs_batch),
    "masked": (masked, masked_batch),
}
"""Layers, and a batch of so many rows for them."""


def batches_of(name: str, sizes: Sequence[int], seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [NETWORKS[name][1](size, generator) for size in sizes]


def loss(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), y.flatten(), ignore_index=IGNORED)


def metric(output: Tensor, y: Tensor) -> Tensor:
    return (output.argmax(-1) == y)[valid(y)].float()


def valid(y: Tensor) -> Tensor:
    return y != IGNORED


def boundaries(layers: Sequence[nn.Module], batch: Batch) -> tuple[list[Boundary], list[Tensor], Boundary]:
    """In front of the first layer and behind each of them; h there; of the targets."""
    walked = list(walk(copy.deepcopy(list(layers)), batch[0]))
    return [row[0] for row in walked], [row[1] for row in walked], Boundary.of(batch[1], "the targets")


def messages(data: Sequence[Batch], train: bool = True) -> list[Message]:
    """As stage 0 takes them."""
    inputs, targets = (Boundary.of(part) for part in data[0])
    made: list[Message] = []
    for step, (x, y) in enumerate(data):
        (h, extras), (label, labels) = inputs.pack(x), targets.pack(y)
        made.append(Activation(step, 0, h, label, train, (*extras, *labels)))
    return made


def stages(
    layers: Sequence[nn.Module],
    cut: Sequence[int],
    batch: Batch,
    rule: Callable[[int, Boundary, Tensor], Rule],
    make_updater: MakeUpdater = adam,
    task_loss: Callable[[Any, Any], Tensor] = loss,
    task_metric: Callable[[Any, Any], Tensor] = metric,
) -> list[Stage]:
    """Stages with `rule(index, boundary, h)` below the last one."""
    crossing, hs, targets = boundaries(layers, batch)
    bounds = list(itertools.pairwise([0, *cut, len(layers)]))
    made: list[Stage] = []
    for i, (first, end) in enumerate(bounds):
        last = i == len(bounds) - 1
        own = (
            LossRule(task_loss, task_metric, boundary=crossing[end])
            if last
            else rule(i, crossing[end], hs[end])
        )
        module = nn.Sequential(*layers[first:end])
        stage = Stage(
            i,
            module,
            own,
            make_updater(module),
            send_targets=i > 0 and made[-1].rule.capabilities.needs_targets,
            takes=crossing[first],
            returns=crossing[end],
            targets=targets,
        )
        made.append(stage)
    return made
