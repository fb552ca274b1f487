"""Trained weights on disk: every stage writes its own part, together they fit the uncut network.

weights/stage-0.safetensors   0.weight, 0.bias, 1.weight ...      names as in nn.Sequential(*layers)
weights/stage-1.safetensors   4.weight ...
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.state.state_dict import copied, renumbered
from workers.checkpoint.atomic_file import write_whole


def save_part(folder: Path, stage: int, first_layer: int, layers: nn.Module) -> None:
    """Write the weights of one stage whose first layer is number `first_layer` of the network."""
    folder = folder / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    state = copied(renumbered(layers.state_dict(), first_layer))
    data = save({name: tensor.contiguous() for name, tensor in state.items()})
    write_whole(folder / f"stage-{stage}.safetensors", data)


def remove_stale_parts(folder: Path, stages: int) -> None:
    """Remove the weights of further stages, which an earlier run with more stages has left there."""
    for path in (folder / "weights").glob("stage-*.safetensors"):
        number = path.stem.removeprefix("stage-")
        if number.isdecimal() and int(number) >= stages:
            path.unlink(missing_ok=True)


def load_all(folder: Path, stages: int) -> dict[str, Tensor]:
    """The `state_dict` of `nn.Sequential(*task.layers())`, from the parts of all stages."""
    state: dict[str, Tensor] = {}
    for stage in range(stages):
        path = folder / "weights" / f"stage-{stage}.safetensors"
        if not path.exists():
            raise UserError(f"weights of stage {stage} are missing ({path}); was the run finished?")
        state |= load_file(path)
    return state
