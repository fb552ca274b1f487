"""A model trained over time on disk, with what is needed to build it again.

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
from tasks.data_files import read_data
from tasks.registry import create_any
from tasks.sequence.base import SequenceModel, SequenceTask


@dataclass(slots=True)
class Trained:
    """A trained model, its task, and the vocabulary of its text."""

    task: SequenceTask
    model: SequenceModel
    symbols: tuple[str, ...]


def save(
    folder: Path, model: SequenceModel, task: str, task_args: tuple[str, ...], symbols: tuple[str, ...]
) -> None:
    """Write the model into `folder`/model, atomically."""
    folder = folder / "model"
    folder.mkdir(exist_ok=True)
    temporary = folder / ".model.tmp"
    save_model(model, str(temporary))  # unlike save_file it accepts tied weights
    temporary.replace(folder / "model.safetensors")
    write_json(folder / "model.json", {"task": task, "task_args": task_args, "symbols": symbols})


def load(folder: Path) -> Trained:
    """Return the model in `folder`/model. Raises UserError when it is missing, damaged or does not fit."""
    folder = folder / "model"
    description, weights = folder / "model.json", folder / "model.safetensors"
    for path in (description, weights):
        if not path.exists():
            raise UserError(f"no trained model here ({path} is missing); give the --out of a finished run")
    try:
        content = json.loads(read_data(description))
        name, args, symbols = content["task"], tuple(content["task_args"]), tuple(content["symbols"])
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
