"""Outputs of a trained network for inputs in a file: python -m launch.predict --run runs/a --input x.npy

FILE.npy           an array (N, ...)                    FILE.csv   a row of numbers for each sample
FILE.safetensors   tensors by name, (N, ...) each       FILE.pt    tensors that torch.save wrote
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from dni_async.errors import UserError
from dni_async.trees import describe_tree
from launch.config.checks import not_empty
from launch.config.command_line import parse
from launch.trained import TrainedNetwork, load_run
from tasks.data_files import damaged, read_data
from workers.checkpoint.atomic_file import write_whole
from workers.failure.rank_runner import RankRunner, run_command

INPUTS = (".npy", ".csv", ".safetensors", ".pt")
OUTPUTS = (".npy", ".csv")


@dataclass(kw_only=True, slots=True)
class PredictConfig:
    """Compute what the network of a finished run says about the samples in a file. Without --to, print a line
    for each sample: its class and the probability, or the output itself where there are no classes."""

    run: str
    """The --out of the run."""
    input: str
    """The file: .npy, .csv (a row for each sample), .safetensors (several inputs by name) or .pt."""
    to: str = ""
    """Write the outputs to this file instead: .npy, or .csv with a row for each sample."""

    def __post_init__(self) -> None:
        not_empty(run=self.run, input=self.input)
        for option, name, known in (("input", self.input, INPUTS), ("to", self.to, OUTPUTS)):
            if name and Path(name).suffix not in known:
                raise UserError(f"{option} is {name}; the file's name must end in {', '.join(known)}")


def read_inputs(path: Path) -> Any:
    """Return the inputs in a file. Raises UserError if there are none, or it is damaged."""
    data = io.BytesIO(read_data(path))
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(numpy.load(data, allow_pickle=False))
        if path.suffix == ".csv":
            return torch.from_numpy(numpy.loadtxt(data, delimiter=",", dtype=numpy.float32, ndmin=2))
        if path.suffix == ".safetensors":
            return load(data.getvalue())
        return torch.load(data, map_location="cpu", weights_only=True)
    except (ValueError, TypeError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise damaged(path, f"no inputs that can be read: {' '.join(str(error).split())[:160]}") from error


def write_outputs(path: Path, outputs: Tensor) -> None:
    """Write outputs (N, ...) to a .npy, or outputs (N,) and (N, D) to a .csv. Raises UserError."""
    file = io.BytesIO()
    if path.suffix == ".npy":
        numpy.save(file, outputs.numpy())
    elif outputs.ndim > 2:
        raise UserError(f"outputs are {tuple(outputs.shape)}, no rows of numbers; write --to a .npy")
    else:
        numpy.savetxt(file, outputs.numpy(), delimiter=",", fmt="%.9g")
    try:
        write_whole(path, file.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another file with --to") from error


def lines_of(trained: TrainedNetwork, outputs: Tensor) -> list[str]:
    """Return a line for each sample: `3  0.9812`, its class and the probability, or else its outputs."""
    classes = trained.task.classes
    if classes is not None and not trained.task.multi_label and outputs.shape[1:] == (classes,):
        best = outputs.softmax(1).max(1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [f"{index}  {probability:.4f}" for index, probability in pairs]
    return [" ".join(f"{value:.6g}" for value in row) for row in outputs.flatten(1).tolist()]


def predict(config: PredictConfig) -> list[str]:
    """Compute the outputs; return what to print. Raises UserError."""
    trained = load_run(config.run)
    outputs = trained.predict(read_inputs(Path(config.input)))
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"outputs are {describe_tree(outputs)}, and a file takes one tensor; use load_run(...).predict"
        )
    if not config.to:
        return lines_of(trained, outputs if outputs.ndim > 1 else outputs.unsqueeze(1))
    write_outputs(Path(config.to), outputs)
    return [f"{config.to}: outputs {tuple(outputs.shape)}"]


def work(runner: RankRunner) -> None:
    """Parse the command line, compute, print."""
    print(*predict(parse(PredictConfig, "launch.predict")), sep="\n", flush=True)


if __name__ == "__main__":
    run_command(work)
