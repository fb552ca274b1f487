"""One plain state_dict of a run: python -m launch.export --run runs/a --to model.safetensors

model = nn.Sequential(*task.layers())       # or the model that dni_async.from_module has split
model.load_state_dict(safetensors.torch.load_file("model.safetensors"))    # of model.pt: torch.load
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from dni_async.errors import UserError
from launch.config.checks import not_empty
from launch.config.command_line import parse
from launch.report.weights import uncut_weights_of
from workers.checkpoint.atomic_file import write_whole
from workers.failure.rank_runner import RankRunner, run_command

SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """Write the weights of a run as one state_dict that loads into the uncut network."""

    run: str
    """The --out of the run."""
    to: str = ""
    """The file to write: .safetensors, or .pt and .pth for torch.load; by default RUN/model.safetensors."""
    step: int | None = None
    """The checkpoint of this step; by default the newest that is whole (with --patience the best weights in
    it), or the weights of a finished run."""

    def __post_init__(self) -> None:
        not_empty(run=self.run)
        if self.to and Path(self.to).suffix not in SUFFIXES:
            raise UserError(f"to is {self.to}; the file's name must end in {', '.join(SUFFIXES)}")


def export(config: ExportConfig) -> str:
    """Write the file; what was written where, in one line. Raises UserError when there is nothing whole."""
    run = Path(config.run)
    path = Path(config.to) if config.to else run / "model.safetensors"
    state, source = uncut_weights_of(run, config.step)
    try:
        write_whole(path, _file(state, path.suffix))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another file with --to") from error
    return f"{path}: {len(state)} tensors, {source}"


def _file(state: dict[str, Tensor], suffix: str) -> bytes:
    if suffix == ".safetensors":
        return save({name: tensor.clone() for name, tensor in state.items()})
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def work(runner: RankRunner) -> None:
    """Parse the command line, write, say so."""
    print(export(parse(ExportConfig, "launch.export")), flush=True)


if __name__ == "__main__":
    run_command(work)
