"""Parameters in groups with settings of their own: no weight decay for norms and biases, and the like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from dni_async.errors import UserError
from dni_async.partition.module_layer import is_module_layer

GroupSettings = Mapping[str, Mapping[str, Any]]
"""Settings of the optimizer by pattern, in order of precedence."""


NamedModules = Iterable[tuple[str, nn.Module]]


def numbered(layers: Iterable[nn.Module], first: int = 0) -> NamedModules:
    """Return layers with their numbers in the network as names; the first of them is number `first`."""
    return ((str(number), layer) for number, layer in enumerate(layers, first))


def parameter_names(modules: NamedModules) -> Iterator[tuple[nn.Parameter, list[str]]]:
    """Yield each trained parameter once, with its names: by place, by the type of its module, and, of a layer
    that `from_module` has split off a model, that of the model.

    A network that begins with a linear layer has 0.weight or Linear.weight, and the norm inside its layer 3
    has 3.norm.bias or LayerNorm.bias.
    """
    seen: set[nn.Parameter] = set()
    for name, module in modules:
        for place, part in module.named_modules(prefix=name):
            for leaf, parameter in part.named_parameters(recurse=False):
                if parameter.requires_grad and parameter not in seen:
                    seen.add(parameter)
                    place_name = f"{place}.{leaf}".lstrip(".")
                    uncut = [place_name.removeprefix(f"{name}.")] if is_module_layer(module) else []
                    yield parameter, [place_name, f"{type(part).__name__}.{leaf}", *uncut]


def parameter_groups(modules: NamedModules, settings: GroupSettings) -> list[dict[str, Any]]:
    """Return the trained parameters as groups for an optimizer: one for each pattern that matches some, and
    the rest. A parameter belongs to the first pattern that matches one of its names."""
    groups: dict[str | None, list[nn.Parameter]] = {pattern: [] for pattern in (*settings, None)}
    for parameter, names in parameter_names(modules):
        groups[_pattern(names, settings)].append(parameter)
    return [
        dict(settings.get(pattern, {}) if pattern else {}) | {"params": parameters}
        for pattern, parameters in groups.items()
        if parameters
    ]


def check_patterns(network: NamedModules, settings: GroupSettings) -> None:
    """Raise UserError for a pattern to which no parameter of the whole network belongs."""
    names = [names for _, names in parameter_names(network)]
    used = {_pattern(each, settings) for each in names}
    for pattern in settings:
        if pattern not in used:
            known = ", ".join(f"{place} ({kind})" for place, kind, *_ in names[:4])
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise UserError(f"param-groups: no parameter is left for {pattern}; there are {known}{more}")


def _pattern(names: Sequence[str], settings: GroupSettings) -> str | None:
    return next((p for p in settings if any(fnmatchcase(name, p) for name in names)), None)
