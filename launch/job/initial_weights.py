"""Weights to start from (--init), for example those of another run or of a pretrained network."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dni_async.errors import UserError


def load_initial_weights(network: nn.Module, path: str) -> None:
    """Load a safetensors file into the uncut network; it must have the same names and shapes.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    try:
        if not Path(path).is_file():
            raise OSError("no such file")
        given = load_file(path)
    except (OSError, SafetensorError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"init {path} cannot be read ({cause}); give a .safetensors file") from None
    own = network.state_dict()
    for what, names in (("lacks", own.keys() - given.keys()), ("has unknown", given.keys() - own.keys())):
        if names:
            first = sorted(names)[0]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"init {path} {what} {first}{more}; its names must be those of the uncut network, as "
                "launch.export writes them"
            )
    for name, tensor in own.items():
        if given[name].shape != tensor.shape:
            shapes = f"{tuple(given[name].shape)}, not {tuple(tensor.shape)}"
            raise UserError(f"init {path}: {name} has shape {shapes}; give the weights of this network")
    network.load_state_dict(given)
