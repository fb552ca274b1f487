"""The rule of a stage in somebody else's training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_async.boundary import Boundary
from dni_async.errors import UserError
from dni_async.networks.batch_normalised import batch_normalised
from dni_async.networks.factory import label_size_of
from dni_async.rules import LossRule, Rule
from dni_async.rules.context import RuleContext
from dni_async.rules.registry import build_rule, capabilities_of
from dni_async.trees import first_tensor, map_tensors
from launch.schedule.interfaces import Interfaces
from launch.schedule.settings import ScheduleSettings
from tasks.base import Task

Loss = Callable[[Any, Any], Tensor]
"""(output, labels (B, ...)) -> scalar, the mean over the batch; both may be trees."""


class StepLoss(LossRule):
    """The rule of the last stage, which keeps output and loss of the batch for who called."""

    def __init__(self, loss_fn: Loss, boundary: Boundary) -> None:
        self.output: Any = None
        """Of the current batch: a tensor (B, ...), or several."""
        self.losses: list[Tensor] = []
        """The mean loss of the current batch; empty in an evaluation without labels."""

        def loss(output: Any, y: Any) -> Tensor:
            self.output, mean = map_tensors(Tensor.detach, output), loss_fn(output, y)
            self.losses = [mean.detach()]
            return mean

        super().__init__(loss, no_scores, boundary=boundary)

    @override
    def evaluate(self, output: Any, y: Any) -> None:
        self.output, self.losses = output, []
        if len(first_tensor(y)):
            self.loss(output, y)


def no_scores(output: Any, y: Any) -> Tensor:
    """Return no scores (0,): evaluating is up to the loop."""
    return torch.empty(0)


class _LabelsOfLoop(Task):
    """What the labels in somebody else's loop mean; the loop itself has the layers and the data."""

    def __init__(self, classes: int | None, ignore_index: int | None) -> None:
        self.classes = classes
        if ignore_index is not None:
            self.ignore_index = ignore_index

    @override
    def layers(self) -> list[nn.Module]:
        raise AssertionError("the loop has the layers")

    @override
    def data(self, root: Path | None) -> tuple[Any, Any]:
        raise AssertionError("the loop has the data")


def rule_of(
    settings: ScheduleSettings,
    interfaces: Interfaces,
    loss_fn: Loss,
    module: nn.Module,
    index: int,
    stages: int,
    device: torch.device,
) -> Rule:
    """Return the rule of stage `index` of so many."""
    if index == stages - 1:
        return StepLoss(loss_fn, interfaces.returns)
    labels, output = interfaces.labels, interfaces.network_h
    classes = classes_of(settings, interfaces)
    if classes is None and not labels.is_floating_point():
        raise UserError(
            f"outputs {tuple(output.shape)} do not show how many classes labels {tuple(labels.shape)} have; "
            "give classes=..."
        )
    task = _LabelsOfLoop(classes, settings.ignore_index)
    conditional = capabilities_of(settings.rule).conditional
    condition = settings.condition or task.condition
    y, *others = (torch.zeros_like(part[:1], device="cpu") for part in (labels, *interfaces.label_extras))
    example = interfaces.targets.unpack(y, others)
    return build_rule(
        settings.rule,
        RuleContext(
            shape=tuple(interfaces.h.shape[1:]),
            output_shape=tuple(output.shape[1:]),
            boundary=interfaces.returns,
            output=interfaces.network_returns,
            loss=loss_fn,
            metric=no_scores,
            valid=None if settings.ignore_index is None else task.valid,
            condition=condition,
            class_indices=None if settings.condition or classes is None else task.class_indices,
            label_size=label_size_of(condition, example) if conditional else 0,
            classes=classes,
            stages=stages,
            sg=settings.sg,
            local=settings.local,
            pending_capacity=2 * settings.in_flight + 2,
            stash_capacity=settings.stash or stages - index,
            seed=settings.seed + 1000 + index,
            device=device,
            batch_normalised=batch_normalised([module])[0],
            guarded=settings.on_nonfinite == "skip",
        ),
    )


def classes_of(settings: ScheduleSettings, interfaces: Interfaces) -> int | None:
    """Return the classes of integer labels y (B, ...), by an output (B, ..., classes) or (B, classes, ...);
    None for other labels, or where the output does not show them."""
    labels, output = interfaces.labels, interfaces.network_h
    if settings.classes or labels.is_floating_point():
        return settings.classes
    if output.shape[:-1] == labels.shape:
        return output.shape[-1]
    if output.shape[:1] + output.shape[2:] == labels.shape:
        return output.shape[1]
    return None
