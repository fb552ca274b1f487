"""What rank 0 finds out before the start and all ranks must agree on: where to cut, shapes, sizes."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.errors import StageError, UserError
from dni_async.networks.batch_normalised import batch_normalised
from dni_async.networks.factory import label_size_of
from dni_async.optim import Updater, optimizer_factory
from dni_async.partition.costs import ROUNDS, Clock, Costs, measure_costs
from dni_async.partition.cut import best_cut, check_cut, stage_bounds
from dni_async.recurrent.stateful_rnn import set_sequence_length
from dni_async.rules import Rule, RuleContext
from dni_async.rules.registry import find_rule
from launch.config.runtime import LinkedConfig
from launch.config.train import TrainConfig
from launch.engines.registry import find_engine
from launch.job.data import Data, size
from launch.job.task_checks import (
    check_evaluations,
    check_labels,
    check_last_batch,
    check_scores,
    run_through,
)
from tasks.base import Task, seed_everything
from workers.coordination.rendezvous import Rendezvous
from workers.runtime.emulation import flop_clock
from workers.runtime.precision import in_precision, sequential

KEY = "plan"


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
    train_samples: int
    test_samples: int
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the task must know of the data to build layers."""
    start: int = 0
    """Training batches that the run has seen when it starts: the step of the checkpoint that it resumes."""


def build_layers(task: Task, seed: int, steps_per_epoch: int = 0) -> list[nn.Module]:
    """The task's layers with the weights that every process and every engine starts from.

    steps_per_epoch: layers that carry state start anew after so many batches (0: never).
    """
    seed_everything(seed)
    layers = list(task.layers())
    if not layers or not all(isinstance(layer, nn.Module) for layer in layers):
        raise UserError(f"task {task.name}: layers() must give a list of nn.Module, at least one")
    set_sequence_length(steps_per_epoch, *layers)
    return layers


def broadcast_plan(
    rendezvous: Rendezvous,
    config: TrainConfig,
    task: Task,
    data: Data | None,
    device: torch.device | None = None,
    start: int = 0,
) -> PartitionPlan:
    """Rank 0, which has the data and knows where to start, draws the plan; the others read it, or its
    failure. So does a supervised rank 0 whose process has died after it had drawn it."""
    if data is None or rendezvous.peek(KEY):
        told = rendezvous.read(KEY, max(config.runtime.timeout, 120.0))
        if "error" in told:
            raise (UserError if told["user"] else StageError)(told["error"])
        bounds, shapes = ([tuple(pair) for pair in told[key]] for key in ("bounds", "shapes"))
        task.metadata = told["metadata"]
        return PartitionPlan(**told | {"bounds": bounds, "shapes": shapes})
    stages = rendezvous.world if find_engine(config.engine).cut else 1
    plan = replace(make_plan(config, task, data, stages, device), start=start)
    rendezvous.publish(KEY, asdict(plan))
    return plan


def broadcast_error(rendezvous: Rendezvous, error: Exception) -> None:
    """Let the ranks that wait for the plan go."""
    line = " ".join(str(error).split())
    rendezvous.publish(KEY, {"error": line, "user": isinstance(error, UserError)})


def make_plan(
    config: TrainConfig, task: Task, data: Data, stages: int, device: torch.device | None = None
) -> PartitionPlan:
    """Run every layer once (by hand) or measure every layer and rule (automatic), and cut.

    device: where costs are measured, by default the CPU.
    """
    layers = build_layers(task, config.task.seed)
    if stages > len(layers):
        raise UserError(f"{stages} stages cannot share {len(layers)} layers; use 1 to {len(layers)} stages")
    check_evaluations(config.evaluation.evaluations, data)
    check_labels(task, data)
    x, y = data.sample()
    label_size = label_size_of(task.condition, y) if config.capabilities.conditional and stages > 1 else 0
    shapes, dtypes, output = run_through(layers, x, config.runtime.precision)
    check_scores(task, output, y)
    check_last_batch(layers, x, data)
    cut = config.partition.cut_layers()
    if cut is None:
        costs = (
            _measure(config, task, layers, (x.to(device), y.to(device)), shapes, label_size, stages)
            if stages > 1
            else None
        )
        cut = best_cut(costs, stages) if costs else []
    else:
        costs = None
        if len(cut) + 1 != stages:
            raise UserError(
                f"cut {config.partition.cut} makes {len(cut) + 1} stages, but {stages} run; "
                "change one of them"
            )
        check_cut(cut, len(layers))
    bounds = stage_bounds(cut, len(layers))
    return PartitionPlan(
        bounds,
        shapes,
        [str(dtype).removeprefix("torch.") for dtype in dtypes],
        [costs.of_stage(*pair) for pair in bounds] if costs else [],
        label_size,
        data.steps_per_epoch,
        size(data.train),
        size(data.test),
        dict(task.metadata),
    )


def rule_context(
    config: TrainConfig,
    task: Task,
    shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    label_size: int,
    stages: int,
    seed: int,
    device: torch.device,
    index: int = 0,
    copy_downstream: Callable[[], tuple[nn.Module, Updater]] | None = None,
    *,
    batch_normalised: bool,
    schedule: Callable[[int], float] | None = None,
) -> RuleContext:
    """What the rule of stage `index` is built from, at an interface of `shape`.

    output_shape: of the whole network. Shapes are without the batch.
    """
    return RuleContext(
        shape=shape,
        output_shape=output_shape,
        loss=in_precision(task.loss, config.runtime.precision, device),
        metric=task.metric,
        condition=task.condition,
        label_size=label_size,
        classes=task.classes,
        index=index,
        stages=stages,
        sg=config.sg,
        local=config.local,
        pending_capacity=2 * config.partition.capacity + 2,
        stash_capacity=config.partition.stash_of(index, stages),
        seed=seed,
        device=device,
        batch_normalised=batch_normalised,
        schedule=schedule,
        guarded=config.recovery.on_nonfinite == "skip",
        in_precision=lambda module: sequential([module], config.runtime.precision),
        copy_downstream=copy_downstream,
    )


def rules_to_measure(
    config: TrainConfig,
    task: Task,
    layers: list[nn.Module],
    shapes: list[tuple[int, ...]],
    label_size: int,
    stages: int,
    device: torch.device,
) -> Callable[[int], Rule]:
    """Returns the rule after layer i; the same one for all outputs that are alike."""
    normalised = batch_normalised(layers)

    @functools.cache
    def build(shape: tuple[int, ...], is_normalised: bool) -> Rule:
        context = rule_context(
            config,
            task,
            shape,
            shapes[-1],
            label_size,
            stages,
            config.task.seed,
            device,
            batch_normalised=is_normalised,
        )
        return find_rule(config.rule).build(context)

    return lambda i: build(shapes[i], normalised[i])


def _measure(
    config: TrainConfig,
    task: Task,
    layers: list[nn.Module],
    batch: tuple[Tensor, Tensor],
    shapes: list[tuple[int, ...]],
    label_size: int,
    stages: int,
) -> Costs:
    device = batch[0].device
    rules = rules_to_measure(config, task, layers, shapes, label_size, stages, device)
    with cost_clock(config.runtime, device) as (clock, rounds):
        costs = measure_costs(
            [sequential([copy.deepcopy(layer)], config.runtime.precision).to(device) for layer in layers],
            *batch,
            loss=in_precision(task.loss, config.runtime.precision, device),
            optimizer=optimizer_factory(
                config.optimizer.name, config.optimizer.lr, **config.optimizer.settings()
            ),
            rule=rules if config.capabilities.has_network else lambda i: None,
            clock=clock,
            rounds=rounds,
        )
    costs.interfaces = [cost.per_target(config.partition.target_every) for cost in costs.interfaces]
    return costs


@contextmanager
def cost_clock(config: LinkedConfig, device: torch.device) -> Iterator[tuple[Clock, int]]:
    """What an automatic cut goes by, and how many rounds of it: the clock, or FLOPs.

    FLOPs on emulated devices, and with `deterministic`, when the same command shall give the same cut: then
    at 1 GFLOP/s.
    """
    gflops = config.emulate_gflops or (1.0 if config.deterministic else None)
    if gflops is None:
        yield device_clock(device), ROUNDS
        return
    with flop_clock(gflops) as clock:
        yield clock, 1  # FLOPs are always the same


def device_clock(device: torch.device) -> Clock:
    """Shows the seconds when all that was asked of the device is done."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock
