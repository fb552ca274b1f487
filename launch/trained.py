"""What a run has trained, for use from Python: its network, its task and its summary.

from launch.trained import load_run

trained = load_run("runs/a")
trained.predict(x), trained.evaluate()["test_accuracy"], trained.model
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from dni_async.checks import at_least
from dni_async.errors import UserError
from dni_async.rules.loss import LossRule
from dni_async.trees import describe_tree
from launch.config.data import DataConfig
from launch.config.task import TaskConfig
from launch.engines.registry import find_engine
from launch.job.data import read
from launch.job.output_folder import FILES
from launch.job.samples import known_size
from launch.job.task_checks import check_labels
from launch.report.evaluation import named_result
from launch.report.files import read_summary
from launch.report.weights import load_all
from tasks.base import Task
from tasks.registry import create

SPLITS = ("test", "train", "validation")


@dataclass(slots=True)
class TrainedNetwork:
    """The network of a finished run."""

    summary: dict[str, Any]
    """What summary.json holds."""
    model: nn.Sequential
    """The trained layers in one piece, on the CPU, in eval mode."""
    task: Task
    """What was trained."""

    @torch.no_grad()
    def predict(self, inputs: Any, batch_size: int = 1024) -> Any:
        """Return the network's outputs for inputs (N, ...): of a classification logits, so that
        `predict(x).argmax(-1)` are the classes.

        Args:
            inputs: what the first layer takes: a tensor, an array or a list of numbers, or a tuple or dict of
                them. Numbers with a fraction become float32.
            batch_size: rows that are computed at a time. Layers that carry state get all rows at once.

        Raises:
            UserError: the network does not take such inputs, or batch_size is below 1.
        """
        at_least(1, batch_size=batch_size)
        inputs = tree_map(_tensor, inputs, is_leaf=_is_numbers)
        leaves, structure = tree_flatten(inputs)
        if not leaves or any(leaf.ndim == 0 or len(leaf) != len(leaves[0]) for leaf in leaves):
            raise UserError(f"inputs are {describe_tree(inputs)}; give tensors with the same number of rows")
        self.model.eval()  # layers that carry state begin with none
        rows = len(leaves[0]) if self.task.carries_state else batch_size
        parts = [
            self._outputs(tree_unflatten([leaf[first : first + rows] for leaf in leaves], structure))
            for first in range(0, max(1, len(leaves[0])), max(1, rows))
        ]
        return tree_map(lambda *tensors: torch.cat(tensors), *parts)

    def _outputs(self, inputs: Any) -> Any:
        try:
            return self.model(inputs)
        except (RuntimeError, TypeError, IndexError, ValueError, KeyError, AttributeError) as error:
            cause = " ".join(str(error).split())[:200]
            raise UserError(
                f"the network does not take inputs {describe_tree(inputs)} ({cause}); give them as the "
                f"training set of {self.task.name} has them"
            ) from error

    @torch.no_grad()
    def evaluate(self, split: str = "test", data_root: str = "") -> dict[str, Any]:
        """Return loss and metric on a data set of the task, by the names that records have, and `samples`.

        Args:
            split: "test", "train" or "validation".
            data_root: the folder with the data; by default that of the run.

        Raises:
            UserError: the data are not there, there is no such set, or without `data_root` the task found
                another test set than that of the run.
        """
        if split not in SPLITS:
            raise UserError(f"unknown data set ({split}); use one of {', '.join(SPLITS)}")
        settings = self.summary["settings"]
        config = TaskConfig(
            batch_size=settings["batch_size"], data_root=data_root or settings.get("data_root", "")
        )
        steps = DataConfig(steps_per_epoch=settings.get("steps_per_epoch", 0))
        data = read(config, self.task, patience=int(split == "validation"), data=steps)
        if not data_root:
            self._check_test_set(known_size(data.test))
        ignored = check_labels(self.task, data)
        valid, metrics = self.task.valid if ignored else None, self.task.extra_metrics
        rule = LossRule(self.task.loss, self.task.metric, valid, metrics=metrics)
        batches = {"test": data.testing, "validation": data.evaluation}.get(split, lambda: data.training(1))
        self.model.eval()
        for inputs, targets in batches():
            rule.evaluate(self.model(inputs), targets)
        result = named_result(rule.result(), split, self.task.metric_name, self.task.reported)
        names = [name for name in result if name.startswith(f"{split}_")]
        return {name: result[name] for name in names} | {"samples": result["tested"]}

    def _check_test_set(self, found: int | None) -> None:
        """Refuse what a task takes where it does not find its data, such as digits instead of MNIST."""
        recorded = self.summary.get("dataset", {}).get("test")
        if recorded and found != recorded:
            why = f" ({self.task.note})" if self.task.note else ""
            raise UserError(
                f"{self.task.name} found a test set of {found} samples, and the run tested on {recorded}{why}"
                "; give --data-root the folder of the data"
            )


def load_run(run: str | os.PathLike[str], task: Task | None = None) -> TrainedNetwork:
    """Return what the run in a folder has trained.

    Args:
        run: the --out of a finished run of launch.train or `fit`.
        task: of a run whose task cannot be made by its name, such as one that was defined in a notebook.

    Raises:
        UserError: there is no finished run, or it does not fit its task.
    """
    folder = Path(run)
    summary = summary_of(folder)
    settings = summary["settings"]
    task = task or create(settings["task"], settings["task_args"])
    return network_of(folder, summary, task)


def summary_of(folder: Path) -> dict[str, Any]:
    """Return the summary of a finished run of a layered task. Raises UserError if there is none."""
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(
            f"no finished run here ({folder} has no summary.json); give the --out of a run, or take the "
            "weights of an unfinished one by launch.export"
        )
    summary = read_summary(path)
    if "facts" not in summary:
        raise UserError(
            f"the run in {folder} is of a task over time, whose model has no layers to call; launch.generate "
            "samples from a language model"
        )
    needed = {"task", "task_args", "engine", "batch_size"} - summary["settings"].keys()
    if needed or not (isinstance(summary["facts"], dict) and isinstance(summary.get("stages"), list)):
        raise UserError(f"{path} is damaged; put the one that the run wrote there, or train again")
    return summary


def network_of(folder: Path, summary: dict[str, Any], task: Task) -> TrainedNetwork:
    """Return the network of a finished run. Raises UserError if its weights or files do not fit."""
    task.metadata = summary["facts"]
    task.restore_files(folder / FILES)
    model = nn.Sequential(*task.layers())
    parts = len(summary["stages"]) if find_engine(summary["settings"]["engine"]).cut else 1
    try:
        model.load_state_dict(load_all(folder, parts))
    except RuntimeError as error:
        cause = " ".join(str(error).split())[:160]
        raise UserError(
            f"the weights in {folder} do not fit {task.name} ({cause}); train it again"
        ) from error
    return TrainedNetwork(summary, model.eval(), task)


def _is_numbers(value: Any) -> bool:
    """Whether a value is one input, not a tuple or dict of several."""
    return isinstance(value, Tensor | numpy.ndarray | list) or hasattr(value, "__array__")


def _tensor(value: Any) -> Tensor:
    try:
        tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(numpy.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        raise UserError(
            f"inputs have {describe_tree(value)}, which is no array of numbers; give tensors, arrays or "
            "lists of numbers, all rows of the same shape"
        ) from None
    return tensor.float() if tensor.is_floating_point() else tensor
