"""Batches, losses and stages for the networks of `tree_nets`."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

from dni_async.boundary import Boundary
from dni_async.messages import Activation, Message
from dni_async.rules import LossRule
from dni_async.rules.base import Rule
from dni_async.stage.stage import Stage
from dni_async.walk import walk
from tests.support.stages import MakeUpdater, adam
from tests.support.tree_nets import CLASSES, FEATURES, STEPS, SYMBOLS, masked, skips, two_inputs

IGNORED = -100

Batch = tuple[Any, Any]


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


def assert_equal(got: Any, wanted: Any) -> None:
    """Trees of the same structure, with equal tensors."""
    (a, a_spec), (b, b_spec) = tree_flatten(got), tree_flatten(wanted)
    assert a_spec == b_spec
    for left, right in zip(a, b, strict=True):
        assert torch.equal(left, right) if isinstance(right, Tensor) else left == right


def loss(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), y.flatten(), ignore_index=IGNORED)


def metric(output: Tensor, y: Tensor) -> Tensor:
    return (output.argmax(-1) == y)[valid(y)].float()


def valid(y: Tensor) -> Tensor:
    return y != IGNORED


def two_losses(output: dict[str, Tensor], y: dict[str, Tensor]) -> Tensor:
    return loss(output["tokens"], y["tokens"]) + F.mse_loss(output["sample"], y["sample"])


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
