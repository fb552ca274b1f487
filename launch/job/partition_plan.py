"""The plan that rank 0 makes before the start and sends to all ranks: where to cut, shapes, sizes."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.boundary import TENSOR, Boundary, Extras
from dni_async.errors import UserError
from dni_async.networks.factory import label_size_of
from dni_async.parameter_groups import check_patterns, numbered
from dni_async.partition.costs import Costs
from dni_async.partition.cut import check_cut, cut_with_weights, stage_bounds
from dni_async.partition.module_layer import module_layers
from dni_async.trees import type_name
from launch.config.train import TrainConfig
from launch.engines.registry import find_engine
from launch.job.data import Data
from launch.job.layers import NetworkLayers
from launch.job.run_through import run_through
from launch.job.samples import known_size
from launch.job.stage_costs import measure_stage_costs
from launch.job.task_checks import (
    check_evaluations,
    check_labels,
    check_last_batch,
    check_rows,
    check_scores,
    check_shared_weights,
    shared_across,
)
from tasks.base import Task
from workers.coordination.rendezvous import Rendezvous
from workers.failure.errors import AlreadyReported, exit_status, format_error

KEY = "plan"
"""Of the plan, or of the error that prevented it, in the store."""


@dataclass(slots=True)
class PartitionPlan:
    """The plan of a job, JSON-able."""

    bounds: list[tuple[int, int]]
    """(first, end) layer of each stage."""
    shapes: list[tuple[int, ...]]
    """Output shape of each layer, without the batch."""
    dtypes: list[str]
    """Output type of each layer, such as float32."""
    costs: list[float]
    """Seconds per batch of each stage, its rule included (see `cost_clock`); empty for a cut by hand."""
    label_size: int
    """Columns that the SG networks condition on."""
    steps_per_epoch: int
    train_samples: int | None
    """None where only reading would show it."""
    test_samples: int | None
    boundaries: list[dict[str, Any]] = field(default_factory=list)
    """How what crosses in front of the first layer, and behind each of them, is packed (see `Boundary`);
    empty: single tensors."""
    extras: list[list[tuple[str, list[int]]]] = field(default_factory=list)
    """Type and shape of the extras of a batch that cross there."""
    targets: dict[str, Any] = field(default_factory=dict)
    """How the targets of a batch are packed."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the task must know of the data to build layers."""
    ignored_labels: bool = False
    """Whether data sets have, or may have, class labels that loss and metric leave out."""
    module_layers: list[int] = field(default_factory=list)
    """Numbers of the layers that were split off a model, whose names their weights have in exports."""
    start: int = 0
    """Training batches that the run has seen when it starts: the step of the checkpoint that it resumes."""
    run: str = ""
    """Random id of the run, in its checkpoints."""

    def boundary(self, layer: int) -> Boundary:
        """Return how the input of a layer is packed; that of the number behind the last: the output."""
        return Boundary.from_state(self.boundaries[layer]) if self.boundaries else TENSOR

    def zeros(self, layer: int, rows: int) -> tuple[Tensor, Extras]:
        """Return zeros in place of the h and the extras that a layer behind the first takes."""
        h = torch.zeros(rows, *self.shapes[layer - 1], dtype=getattr(torch, self.dtypes[layer - 1]))
        extras = self.extras[layer] if self.extras else []
        return h, tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for dtype, shape in extras)

    def target_boundary(self) -> Boundary:
        """Return how the targets of a batch are packed."""
        return Boundary.from_state(self.targets) if self.targets else TENSOR


def broadcast_plan(
    rendezvous: Rendezvous,
    config: TrainConfig,
    task: Task,
    data: Data | None,
    device: torch.device | None = None,
    start: int = 0,
    begin: Callable[[], None] = lambda: None,
) -> PartitionPlan:
    """Return the plan of the job: rank 0 makes and publishes it, the other ranks read it.

    A supervised rank 0 whose process has died after it published the plan reads it, too.

    Args:
        data: on rank 0.
        start: training batches before the checkpoint that the run goes on from.
        begin: called on rank 0 when the plan is made, before the other ranks go on.

    Raises:
        AlreadyReported: rank 0 has published an error in place of a plan.
    """
    if data is None or rendezvous.peek(KEY):
        published = rendezvous.read(KEY, max(config.runtime.timeout, 120.0))
        if "error" in published:
            raise AlreadyReported(published["error"], published["status"])
        bounds, shapes = ([tuple(pair) for pair in published[key]] for key in ("bounds", "shapes"))
        task.metadata = published["metadata"]
        return PartitionPlan(**published | {"bounds": bounds, "shapes": shapes})
    stages = rendezvous.world if find_engine(config.engine).cut else 1
    plan = replace(make_plan(config, task, data, stages, device), start=start, run=secrets.token_hex(8))
    begin()
    rendezvous.publish(KEY, asdict(plan))
    return plan


def broadcast_error(rendezvous: Rendezvous, error: Exception) -> None:
    """Publish an error in place of the plan, for the ranks that wait for one; rank 0 reports it."""
    rendezvous.publish(KEY, {"error": format_error(error), "status": exit_status(error)})


def make_plan(
    config: TrainConfig, task: Task, data: Data, stages: int, device: torch.device | None = None
) -> PartitionPlan:
    """Return the plan for so many stages, cut as `--cut` says or by the measured costs of layers and rule.

    Args:
        device: where layers are run to see what crosses, and their costs measured; by default the CPU.

    Raises:
        UserError: task, data and settings do not fit each other.
    """
    layers = NetworkLayers(task, config.task)
    if stages > len(layers):
        raise UserError(f"{stages} stages cannot share {len(layers)} layers; use 1 to {len(layers)} stages")
    check_patterns(numbered(layers.structure), config.optimizer.group_settings())
    check_evaluations(config.evaluation.evaluations, data)
    ignored_labels = check_labels(task, data)
    x, y = data.sample()
    label_size = label_size_of(task.condition, y) if config.capabilities.conditional and stages > 1 else 0
    targets = Boundary.of(y, f"batch of task {task.name}, for the targets,")
    crossings = run_through(task, layers, x, config.runtime.precision, targets.extras, device)
    shapes, rows = crossings.shapes, [len(h) for h in crossings.h[1:]]
    check_scores(task, crossings.output, y)
    check_last_batch(layers, x, data)
    cut, costs = config.partition.cut_layers(), None
    if cut is not None:
        _check_given_cut(config, cut, len(layers), stages)
        check_rows(rows, len(crossings.h[0]), cut)
    elif stages > 1:
        check_rows(rows, len(crossings.h[0]), None)
        costs = measure_stage_costs(config, task, layers, crossings, y, label_size, stages, device)
        cut = _measured_cut(costs, layers.structure, stages)
    bounds = stage_bounds(cut or [], len(layers))
    check_shared_weights(layers.structure, bounds)
    return PartitionPlan(
        bounds,
        shapes,
        [type_name(h.dtype) for h in crossings.h[1:]],
        [costs.of_stage(*pair) for pair in bounds] if costs else [],
        label_size,
        data.steps_per_epoch,
        known_size(data.train),
        known_size(data.test),
        [boundary.state_dict() for boundary in crossings.boundaries],
        [[(type_name(extra.dtype), list(extra.shape)) for extra in extras] for extras in crossings.extras],
        targets.state_dict(),
        dict(task.metadata),
        ignored_labels,
        module_layers(layers.structure),
    )


def _check_given_cut(config: TrainConfig, cut: list[int], layers: int, stages: int) -> None:
    if len(cut) + 1 != stages:
        raise UserError(
            f"cut {config.partition.cut} makes {len(cut) + 1} stages, but {stages} run; change one of them"
        )
    check_cut(cut, layers)


def _measured_cut(costs: Costs, layers: list[nn.Module], stages: int) -> list[int]:
    """Return the best cut of those that divide no layers which share weights, if there is one."""
    has_weights = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    shared = shared_across(layers)
    starts = [start for start in range(len(layers)) if start not in shared]
    if stages > len(starts):
        return cut_with_weights(costs, has_weights, stages)
    groups = stage_bounds(starts[1:], len(layers))
    cut = cut_with_weights(costs.merged(starts), [any(has_weights[a:b]) for a, b in groups], stages)
    return [starts[group] for group in cut]
