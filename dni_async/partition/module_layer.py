"""A layer that was split off a model, with the model's names for its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, fx, nn
from typing_extensions import override


class ModuleLayer(nn.Module):
    """Consecutive code of a model, with the submodules and weights that it uses, under the model's names.

    It takes what the layer before it returns, one tensor or a tuple of tensors; the first layer takes the
    inputs of the model. `state_dict` has the names of the model's.

    Args:
        model: whose submodules and weights the layer shares.
        graphs: what to compute in training mode (True) and in evaluation mode (False).
    """

    def __init__(self, model: nn.Module, graphs: Mapping[bool, fx.Graph]) -> None:
        super().__init__()
        nodes = [node for graph in graphs.values() for node in graph.nodes]
        for node in sorted(nodes, key=lambda node: node.op == "get_attr"):  # submodules first
            if node.op in ("call_module", "get_attr"):
                self._take(model, node)
        self._forward = {mode: _compiled(graph) for mode, graph in graphs.items()}

    @override
    def forward(self, inputs: Any) -> Any:
        return self._forward[self.training](self, inputs)

    def _take(self, model: nn.Module, node: fx.Node) -> None:
        """Take over a submodule, parameter, buffer or constant under the name that it has in the model."""
        *path, name = str(node.target).split(".")
        owner: nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if "constant" in node.meta:
            owner.register_buffer(name, node.meta["constant"].clone(), persistent=False)
        elif not hasattr(owner, name):
            source = model.get_submodule(".".join(path))
            value = getattr(source, name)
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                owner.register_buffer(name, value, name not in source._non_persistent_buffers_set)
            else:
                setattr(owner, name, value)


class ChainLayer(nn.Sequential):
    """Consecutive children of an `nn.Sequential`, under the model's names."""


def is_module_layer(layer: nn.Module) -> bool:
    """Whether a layer was split off a model."""
    return isinstance(layer, ModuleLayer | ChainLayer)


def module_layers(layers: Iterable[nn.Module]) -> list[int]:
    """Return the numbers of the layers that were split off a model."""
    return [number for number, layer in enumerate(layers) if is_module_layer(layer)]


def uncut_names(names: Iterable[str], numbers: Iterable[int]) -> dict[str, str]:
    """Return the names in the model, by names in `nn.Sequential(*layers).state_dict()`.

    Args:
        names: in `nn.Sequential(*layers)`.
        numbers: of the layers that were split off the model; the others keep their names.
    """
    uncut = {}
    for name in names:
        number, _, rest = name.partition(".")
        uncut[name] = rest if int(number) in numbers else name
    return uncut


def _compiled(graph: fx.Graph) -> Any:
    """Return the function (self, inputs) that computes a graph."""
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(code.src, names)
    return names["forward"]
