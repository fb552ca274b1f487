"""What rank 0 finds out before the start and all ranks must agree on: where to cut, shapes, sizes."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from dni_async.errors import StageError, UserError
from dni_async.partition import Costs, best_cut, check_cut, measure_costs, stage_bounds
from dni_async.recipes import build_synthesizer, label_size_of, resolve
from dni_async.synthesizer import Synthesizer
from dni_async.updater import optimizer_factory
from launch.config import TrainConfig
from launch.source import Data, size
from tasks.base import Task, seed_everything
from workers.rendezvous import Rendezvous

KEY = "blueprint"


@dataclass(slots=True)
class Blueprint:
    """The plan of a job, JSON-able."""

    bounds: list[tuple[int, int]]
    """(first, end) layer of each stage."""
    shapes: list[tuple[int, ...]]
    """Output shape of each layer, without the batch."""
    costs: list[float]
    """Measured seconds per batch of each stage, its SG network included; empty for a cut by hand."""
    label_size: int
    """Columns that the SG networks condition on."""
    steps_per_epoch: int
    train_samples: int
    test_samples: int


def build_layers(task: Task, seed: int) -> list[nn.Module]:
    """The task's layers with the weights that every process and every engine starts from."""
    seed_everything(seed)
    layers = list(task.layers())
    if not layers or not all(isinstance(layer, nn.Module) for layer in layers):
        raise UserError(f"task {task.name}: layers() must give a list of nn.Module, at least one")
    return layers


def agree(rendezvous: Rendezvous, config: TrainConfig, task: Task, data: Data | None) -> Blueprint:
    """Rank 0, which has the data, draws the blueprint; the others read it, or its failure."""
    if data is None:
        told = rendezvous.read(KEY, max(config.timeout, 120.0))
        if "error" in told:
            raise (UserError if told["user"] else StageError)(told["error"])
        bounds, shapes = ([tuple(pair) for pair in told[key]] for key in ("bounds", "shapes"))
        return Blueprint(**told | {"bounds": bounds, "shapes": shapes})
    blueprint = draw(config, task, data, rendezvous.world)
    rendezvous.publish(KEY, asdict(blueprint))
    return blueprint


def tell_failure(rendezvous: Rendezvous, error: Exception) -> None:
    """Let the ranks that wait for the blueprint go."""
    line = " ".join(str(error).split())
    rendezvous.publish(KEY, {"error": line, "user": isinstance(error, UserError)})


def draw(config: TrainConfig, task: Task, data: Data, stages: int) -> Blueprint:
    """Run every layer once (by hand) or measure every layer and SG network (automatic), and cut."""
    layers = build_layers(task, config.seed)
    if stages > len(layers):
        raise UserError(f"{stages} stages cannot share {len(layers)} layers; use 1 to {len(layers)} stages")
    x, y = data.sample()
    label_size = label_size_of(task.condition, y) if config.rule == "cdni" and stages > 1 else 0
    shapes = _shapes(layers, x)
    _check_last_batch(layers, x, data)
    cut = config.cut_layers()
    if cut is None:
        costs = _measure(config, task, layers, (x, y), label_size, stages) if stages > 1 else None
        cut = best_cut(costs, stages) if costs else []
    else:
        costs = None
        if len(cut) + 1 != stages:
            raise UserError(
                f"cut {config.cut} makes {len(cut) + 1} stages, but {stages} run; change one of them"
            )
        check_cut(cut, len(layers))
    bounds = stage_bounds(cut, len(layers))
    return Blueprint(
        bounds,
        shapes,
        [_stage_cost(costs, *pair) for pair in bounds] if costs else [],
        label_size,
        data.steps_per_epoch,
        size(data.train),
        size(data.test),
    )


def synthesizer_for(
    config: TrainConfig,
    task: Task,
    shape: tuple[int, ...],
    label_size: int,
    stages: int,
    seed: int,
    device: torch.device,
) -> Synthesizer:
    """The synthesizer of rule dni or cdni at an interface of `shape`."""
    conditional = config.rule == "cdni"
    settings = resolve(config.sg, shape, stages, conditional, task.classes is not None)
    return build_synthesizer(
        settings,
        shape,
        label_size=label_size,
        condition=task.condition if conditional else None,
        ledger_capacity=2 * config.in_flight + 2,
        device=device,
        seed=seed,
    )


def _measure(
    config: TrainConfig,
    task: Task,
    layers: list[nn.Module],
    batch: tuple[Tensor, Tensor],
    label_size: int,
    stages: int,
) -> Costs:
    def synthesizer(shape: tuple[int, ...]) -> Synthesizer | None:
        if config.rule not in ("dni", "cdni"):
            return None
        return synthesizer_for(config, task, shape, label_size, stages, config.seed, batch[0].device)

    return measure_costs(
        copy.deepcopy(layers),
        *batch,
        loss=task.loss,
        optimizer=optimizer_factory(config.optimizer, config.lr, **config.optimizer_settings()),
        synthesizer=synthesizer,
        clock=time.perf_counter,
    )


def _stage_cost(costs: Costs, first: int, end: int) -> float:
    return sum(costs.layers[first:end]) + [*costs.interfaces, 0.0][end - 1]


@torch.no_grad()
def _shapes(layers: list[nn.Module], x: Tensor) -> list[tuple[int, ...]]:
    shapes = []
    for i, layer in enumerate(layers):
        layer = copy.deepcopy(layer).eval()
        try:
            x = layer(x)
        except Exception as error:
            cause = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"layer {i} does not take what comes before it, {tuple(x.shape)} ({cause})"
            ) from error
        if not isinstance(x, Tensor):
            raise UserError(f"layer {i} gives {type(x).__name__}; layers of a pipeline must give one tensor")
        shapes.append(tuple(x.shape[1:]))
    return shapes


@torch.no_grad()
def _check_last_batch(layers: list[nn.Module], x: Tensor, data: Data) -> None:
    """Batch norm cannot train on one value per channel: say so now, not at the end of the first epoch."""
    if (size(data.train) - 1) % data.batch_size:
        return
    x = x[:1]
    try:
        for layer in copy.deepcopy(layers):
            x = layer.train()(x)
    except ValueError as error:
        raise UserError(
            f"batch size {data.batch_size} leaves a last batch of one sample (of {size(data.train)}), "
            "which batch norm cannot train on; choose another --batch-size"
        ) from error
