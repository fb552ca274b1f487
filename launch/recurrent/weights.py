"""A trained model over time on disk, with all that is needed to build it again.

model/model.safetensors     the weights
model/model.json            task, task_args, symbols (the vocabulary of a text)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from dni_async.errors import UserError
from launch.report.files import write_json
from tasks.registry import create_any
from tasks.sequence.base import SequenceModel, SequenceTask


@dataclass(slots=True)
class Trained:
    """A model, the task that it was made for, and the vocabulary of its text."""

    task: SequenceTask
    model: SequenceModel
    symbols: tuple[str, ...]


def save(
    folder: Path, model: SequenceModel, task: str, task_args: tuple[str, ...], symbols: tuple[str, ...]
) -> None:
    """Write the model into `folder`/model, all or nothing."""
    folder = folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".model.tmp"
    save_model(model, str(temporary))  # knows tied weights
    temporary.replace(folder / "model.safetensors")
    write_json(folder / "model.json", {"task": task, "task_args": task_args, "symbols": symbols})


def load(folder: Path) -> Trained:
    """The model in `folder`/model. Raises UserError when it is missing, damaged or does not fit."""
    folder = folder / "model"
    description, weights = folder / "model.json", folder / "model.safetensors"
    for path in (description, weights):
        if not path.exists():
            raise UserError(f"no trained model here ({path} is missing); give the --out of a finished run")
    try:
        told = json.loads(description.read_text(encoding="utf-8"))
        name, args, symbols = told["task"], tuple(told["task_args"]), tuple(told["symbols"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the description of the model is damaged ({description}); train it again") from error
    task = create_any(name, args)
    if not isinstance(task, SequenceTask):
        raise UserError(f"the model in {folder} is of task {name}, which has no time; nothing to generate")
    model = task.model(len(symbols))
    try:
        load_model(model, str(weights))
    except (RuntimeError, SafetensorError, OSError) as error:
        cause = " ".join(str(error).split())[:160]
        raise UserError(
            f"the weights in {weights} do not fit the vocabulary of {len(symbols)} symbols and the settings "
            f"of {name} ({cause}); use the model.json that was written with them"
        ) from error
    return Trained(task, model, symbols)
