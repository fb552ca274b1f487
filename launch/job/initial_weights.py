"""Weights to start from (--init), for example those of another run or of a pretrained network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.partition.module_layer import module_layers, uncut_names


def check_initial_weights(network: nn.Module, path: str) -> None:
    """Check that a file has the names and shapes of a network.

    Args:
        network: the layers. Those that were split off a model have the model's names in the file.
        path: the file. Of tensors that are one, such as tied embeddings, it may have only one name.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    own = _uncut_state(network)
    with _opened(path) as file:
        given = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    known = given.keys() | _tied(own, given.keys()).keys()
    for what, names in (("lacks", own.keys() - known), ("has unknown", given.keys() - own.keys())):
        if names:
            first = sorted(names)[0]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"init {path} {what} {first}{more}; its names must be those of the uncut network, as "
                "launch.export writes them"
            )
    for name, shape in given.items():
        if own[name].shape != shape:
            shapes = f"{shape}, not {tuple(own[name].shape)}"
            raise UserError(f"init {path}: {name} has shape {shapes}; give the weights of this network")


def load_initial_weights(network: nn.Module, path: str, layers: range | None = None) -> None:
    """Load a safetensors file into the uncut network; see `check_initial_weights`.

    Args:
        layers: numbers of those to load; None for all of the network.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    check_initial_weights(network, path)
    names = _uncut_names(network)
    chosen = [name for name in names if layers is None or int(name.partition(".")[0]) in layers]
    with _opened(path) as file:
        given = set(file.keys())
        tied = _tied(_uncut_state(network), given)
        wanted = {name: names[name] if names[name] in given else tied[names[name]] for name in chosen}
        network.load_state_dict({name: file.get_tensor(wanted[name]) for name in chosen}, strict=False)


def _uncut_names(network: nn.Module) -> dict[str, str]:
    """Return the name in the file of each entry of the network's state."""
    split = module_layers(network) if isinstance(network, nn.Sequential) else []
    names = list(network.state_dict())
    return uncut_names(names, split) if split else dict(zip(names, names, strict=True))


def _uncut_state(network: nn.Module) -> dict[str, Tensor]:
    names = _uncut_names(network)
    return {names[name]: tensor for name, tensor in network.state_dict(keep_vars=True).items()}


def _tied(own: Mapping[str, Tensor], given: Collection[str]) -> dict[str, str]:
    """Return, for each name that the file lacks, the name under which it has the same tensor, if it has."""
    known = {id(own[name]): name for name in own if name in given}
    return {name: known[id(own[name])] for name in own if name not in given and id(own[name]) in known}


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
