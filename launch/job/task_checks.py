"""Checks of a task before the start; each raises UserError in one line."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset, TensorDataset

from dni_async.errors import UserError, cause_of
from dni_async.rules.means import metric_scores
from dni_async.trees import first_tensor, map_tensors
from launch.engines.registry import ENGINES, find_engine
from launch.job.data import Data
from launch.job.run_through import describe_shape
from launch.job.samples import size
from tasks.base import Task


def check_rows(rows: list[int], batch: int, cut: list[int] | None) -> None:
    """Check that the layers before a cut give a row per sample; with an automatic cut (None), all layers.

    rows: that each layer gives for `batch` samples.
    """
    for i in range(len(rows) - 1) if cut is None else [layer - 1 for layer in cut]:
        if rows[i] != batch:
            raise UserError(
                f"layer {i} gives {rows[i]} rows for {batch} samples, and stages exchange a row per sample; "
                "cut where there are as many (--cut), or make one layer of those in between (nn.Sequential)"
            )


def check_not_lazy(layers: list[nn.Module]) -> None:
    """Check that all weights have their shape, and so the same initial values in every process."""
    for i, layer in enumerate(layers):
        if any(is_lazy(tensor) for tensor in (*layer.parameters(), *layer.buffers())):
            raise UserError(
                f"layer {i} ({type(layer).__name__}) is lazy, without weights before its first batch; "
                "give the size of its input"
            )


@torch.no_grad()
def check_scores(task: Task, output: Any, y: Any) -> None:
    """Check that the loss of a batch is a scalar, and the metric a score per sample or label that counts; of
    further metrics that they return such scores or a number."""
    rows = (len(first_tensor(y)),)
    counted = (int(task.valid(y).sum()),) if task.classes is not None else rows
    scores = [rows, counted]
    for name, function, wanted in (("loss", task.loss, [()]), ("metric", task.metric, scores)):
        try:
            shape = tuple(function(output, y).shape)
        except Exception as error:
            given = f"outputs {describe_shape(output)} and labels {describe_shape(y)}"
            raise UserError(f"the task's {name} does not take {given} ({cause_of(error)})") from error
        if shape not in wanted:
            raise UserError(f"the task's {name} gives shape {shape}; it must give {wanted[0]}")
    for name, metric in task.extra_metrics.items():
        try:
            result = metric(output, y)
        except Exception:  # it may need other samples; else the first evaluation says where it failed
            continue
        metric_scores(name, result, y, counted[0])


def check_labels(task: Task, data: Data) -> bool:
    """Check that class labels are 0 to classes - 1, where the whole data set is a tensor.

    Returns:
        Whether some labels are, or in other data sets may be, ignored (see `Task.ignore_index`).
    """
    if task.classes is None:
        return False
    ignored = False
    for name, dataset in data.sets().items():
        if not _is_tensor(dataset, task):
            ignored = True
            continue
        y = dataset.tensors[-1]
        counted = _check_range(task, y)
        if not counted:
            raise UserError(
                f"all labels of the {name} set are {task.ignore_index}, the task's ignore_index, "
                "which loss and metric leave out; check the task's data"
            )
        ignored = ignored or counted < y.numel()
    return ignored


def check_labels_of_batches(task: Task, data: Data) -> None:
    """Let the data check the class indices of each batch that it reads, where `check_labels` cannot check
    them at the start. Loss and condition would fail with an error that does not name them, on a GPU for good.
    """
    if task.classes is None or all(_is_tensor(dataset, task) for dataset in data.sets().values()):
        return
    split = data.split

    def split_and_check(samples: Any) -> Any:
        batch = split(samples)
        targets = batch[-1] if isinstance(batch, tuple) else None
        if isinstance(targets, Tensor) and targets.is_floating_point() == task.multi_label:
            _check_range(task, targets)  # others are, say, shares of classes
        return batch

    data.split = split_and_check


def _is_tensor(dataset: Dataset[Any], task: Task) -> TypeGuard[TensorDataset]:
    return isinstance(dataset, TensorDataset) and type(task).batch is Task.batch


def _check_range(task: Task, y: Tensor) -> int:
    """Return the number of labels that count. Raises UserError if one of them does not fit the classes."""
    counted = y if y.is_floating_point() and not task.multi_label else y[task.valid(y)]
    most = 1 if task.multi_label else (task.classes or 0) - 1
    if not counted.numel():
        return 0
    if y.is_floating_point() == task.multi_label and counted.min() >= 0 and counted.max() <= most:
        return counted.numel()
    wrong = f"labels of {y.dtype} from {counted.min().item()} to {counted.max().item()} do not fit"
    if task.multi_label:
        raise UserError(f"{wrong} a multi-label task; use floats from 0 to 1")
    raise UserError(f"{wrong} {task.classes} classes; use integers from 0 to {most}")


@torch.no_grad()
def check_last_batch(layers: Iterable[nn.Module], x: Any, data: Data) -> None:
    """Check that the layers can train on the smallest batch: batch norm cannot on one value per channel."""
    parts = data.part[1]
    smallest = data.smallest_batch()
    if smallest is None or smallest // parts > 1:
        return
    x = map_tensors(lambda tensor: tensor[:1], x)
    try:
        for layer in layers:
            x = copy.deepcopy(layer).train()(x)
    except ValueError as error:
        rest = "a last batch" if parts == 1 else f"one of {parts} processes a part"
        raise UserError(
            f"batch size {data.batch_size} leaves {rest} of one sample (of {size(data.train)}), "
            "which batch norm cannot train on; choose another --batch-size"
        ) from error


def shared_across(layers: Sequence[nn.Module]) -> dict[int, list[str]]:
    """Return the names of the tensors that layers on both sides of a cut share, by cut; none for most.

    They are parameters that are trained, and buffers: a frozen weight stays the same in all stages.
    """
    holders: dict[int, dict[int, str]] = {}
    for i, layer in enumerate(layers):
        for name, tensor in (
            *layer.named_parameters(remove_duplicate=False),
            *layer.named_buffers(remove_duplicate=False),
        ):
            if is_lazy(tensor) or (isinstance(tensor, nn.Parameter) and not tensor.requires_grad):
                continue
            storage = tensor.untyped_storage()
            if address := storage._cdata if tensor.is_meta else storage.data_ptr():
                holders.setdefault(address, {}).setdefault(i, f"{i}.{name}")
    shared = [names for names in holders.values() if len(names) > 1]
    return {
        cut: list(names.values())
        for names in reversed(shared)
        for cut in range(min(names) + 1, max(names) + 1)
    }


def check_shared_weights(layers: list[nn.Module], bounds: list[tuple[int, int]]) -> None:
    """Check that no trained parameter or buffer is shared by several stages, where it would train apart."""
    shared = shared_across(layers)
    for cut, _ in bounds[1:]:
        if cut in shared:
            allowed = ", ".join(str(c) for c in range(1, len(layers)) if c not in shared)
            remedy = f"cut only at {allowed} (--cut)" if allowed else "train in one stage, or untie them"
            raise UserError(
                f"{' and '.join(shared[cut])} are one tensor, and a cut at layer {cut} puts it "
                f"into several stages, where it would train apart; {remedy}"
            )


def check_evaluations(evaluations: int, data: Data) -> None:
    """Check that there is at most one evaluation per step."""
    if evaluations > data.steps_per_epoch:
        raise UserError(
            f"{evaluations} evaluations do not fit into an epoch of {data.steps_per_epoch} steps; "
            "lower --evaluations or --batch-size"
        )


def check_until(task: Task, until: float | None) -> None:
    """Check that the task measures an accuracy if `--until` names one."""
    if until is not None and task.metric_name != "accuracy":
        raise UserError(
            f"until is a test accuracy, and task {task.name} measures {task.metric_name}; leave --until out"
        )


def check_state(
    task: Task, engine: str, on_nonfinite: str = "stop", supervise: bool = False, compiled: bool = False
) -> None:
    """Check that layers that carry state get all batches, whole and in order."""
    if not task.carries_state:
        return
    if not find_engine(engine).carries:
        able = ", ".join(name for name, kind in ENGINES.items() if kind.carries)
        raise UserError(
            f"engine {engine} splits batches or layers, and those of {task.name} carry state from batch to "
            f"batch; use one of {able}"
        )
    if supervise:
        raise UserError(
            f"supervise goes on with older weights, and layers of {task.name} carry state from batch to "
            "batch: theirs would be of another place; leave it out"
        )
    if compiled:
        raise UserError(
            f"compile tries layers out, and those of {task.name} carry state from batch to batch, which "
            "would not be empty at the start; leave it out"
        )
    if on_nonfinite == "skip":
        raise UserError(
            f"on-nonfinite is skip, and layers of {task.name} carry state from batch to batch: none can be "
            "skipped; leave it out"
        )
