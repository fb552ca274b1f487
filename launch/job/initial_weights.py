"""Weights to start from (--init), for example those of another run or of a pretrained network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from dni_async.errors import UserError


def check_initial_weights(network: nn.Module, path: str) -> None:
    """Check that a file has the names and shapes of a network. Raises UserError."""
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    with _opened(path) as file:
        given = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for what, names in (("lacks", own.keys() - given.keys()), ("has unknown", given.keys() - own.keys())):
        if names:
            first = sorted(names)[0]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"init {path} {what} {first}{more}; its names must be those of the uncut network, as "
                "launch.export writes them"
            )
    for name, shape in own.items():
        if given[name] != shape:
            shapes = f"{given[name]}, not {shape}"
            raise UserError(f"init {path}: {name} has shape {shapes}; give the weights of this network")


def load_initial_weights(network: nn.Module, path: str, layers: range | None = None) -> None:
    """Load a safetensors file into the uncut network.

    Args:
        layers: numbers of those to load; None for all of the network.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    check_initial_weights(network, path)
    with _opened(path) as file:
        names = [
            name for name in network.state_dict() if layers is None or int(name.partition(".")[0]) in layers
        ]
        network.load_state_dict({name: file.get_tensor(name) for name in names}, strict=False)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        if not Path(path).is_file():
            raise OSError("no such file")
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"init {path} cannot be read ({cause}); give a .safetensors file") from None
