"""Which modules of a network are wrapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from dni_async.errors import UserError


def walk(network: nn.Module, stop: type[nn.Module], name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of `network` and the modules in it, each once, without `stop`s and their own."""
    seen: set[int] = set()

    def inside(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
        if isinstance(module, stop) or id(module) in seen:
            return
        seen.add(id(module))
        yield name, module
        for part, child in module.named_children():
            yield from inside(child, f"{name}.{part}" if name else part)

    return inside(network, name)


def choose(
    modules: dict[str, nn.Module],
    recursive: bool,
    skip_last_layer: bool,
    names: Sequence[str] | None,
) -> dict[str, nn.Module]:
    """Return the modules to wrap, by name.

    Args:
        modules: of the network, beginning with the network itself under "".
        recursive: wrap the leaf modules with parameters; False: the network as one layer.
        skip_last_layer: leave out the last leaf.
        names: wrap these modules, regardless of the other settings.

    Raises:
        UserError: a name is unknown, or nothing is left to wrap.
    """
    network = modules[""]
    if next(network.parameters(), None) is None:
        raise UserError(
            f"{type(network).__name__} has no parameters; wrap a module that has something to train"
        )
    if names is not None:
        if isinstance(names, str) or not names:
            raise UserError(f'layers is {names!r}; give a list of names, such as ["0", "2"]')
        for name in names:
            if name not in modules:
                raise UserError(f"no layer {name} in {type(network).__name__}; see named_modules()")
            if next(modules[name].parameters(), None) is None:
                raise UserError(f"layer {name} has no parameters; wrap a module that has something to train")
        return {name: modules[name] for name in names}
    if not recursive or is_leaf(network):
        return {"": network}
    leaves: dict[str, nn.Module] = {}
    for name, module in modules.items():
        inside_leaf = name.rpartition(".")[0] in leaves  # a compiled leaf contains the original one
        if is_leaf(module) and not inside_leaf and next(module.parameters(), None) is not None:
            leaves[name] = module
    if skip_last_layer and leaves:
        leaves.popitem()
    if not leaves:
        raise UserError(
            f"{type(network).__name__} has only one layer; use recursive=False or skip_last_layer=False"
        )
    return leaves


def is_leaf(module: nn.Module) -> bool:
    """Whether the module, compiled or not, has no child modules except parametrizations."""
    inner = getattr(module, "_orig_mod", None)
    if inner is not None:
        return is_leaf(inner)
    return not any(name != "parametrizations" for name, _ in module.named_children())
