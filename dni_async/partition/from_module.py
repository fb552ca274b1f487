"""Layers of an existing model, split at names of its submodules."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from dni_async.errors import UserError, cause_of
from dni_async.partition.deferred_init import CannotDefer, not_recording
from dni_async.partition.graph_split import returned_types, split_graph
from dni_async.partition.module_layer import ChainLayer, ModuleLayer
from dni_async.partition.module_trace import trace
from dni_async.partition.other_lengths import other_lengths
from dni_async.partition.same_result import check_same_result

COMPARED = 2**26
"""Parameters up to which a model is compared with its layers in a job, too, where all of it needs memory."""
CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def from_module(
    model: nn.Module, split_points: Sequence[str], example: Any = None, output: str | int | None = None
) -> list[nn.Module]:
    """Return the layers of a model: a new one begins with each submodule named in `split_points`.

    Together the layers compute what the model computes, in training and in evaluation, for batches of any
    size. They share the weights of the model and name them as it does. A layer that others than the next one
    need returns a tuple of tensors.

    Submodules without a split point inside stay as they are. The code around them is recorded by
    torch.export, once for each mode, on the path that it takes for the example. An `nn.Sequential` is split
    between its parts and needs no example.

        model = GPT2LMHeadModel(GPT2Config(n_layer=4, use_cache=False, tie_word_embeddings=False))
        layers = from_module(model, ["transformer.h.*"], {"input_ids": torch.zeros(2, 8, dtype=torch.long)})

    Args:
        model: is not changed.
        split_points: names as in `model.named_modules()`; `*` stands for any one part of a name.
        example: a small batch of inputs, of at least two rows: a tensor for `model(x)`, a tuple for
            `model(*x)`, a dict for `model(**x)`.
        output: name or index of the result in what the model returns; needed only where there are several
            tensors.

    Raises:
        UserError: there is no such submodule, or the model cannot be split there.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"from_module takes an nn.Module, not a {type(model).__name__}")
    points = _find(model, split_points)
    kind = type(model).__name__
    if _is_chain(model, points):
        return _split_chain(model, points)
    example = _checked(example)
    select = _selector(kind, output)
    try:
        with not_recording() as recording:
            if recording and _parameters(model) <= COMPARED:
                raise CannotDefer("a model is compared with its layers, which takes values")
            example = pytree.tree_map(lambda x: x.to("meta"), example) if recording else example
            return _split(model, points, example, select)
    except UserError as error:
        raise UserError(f"{kind} cannot be split at {', '.join(points)}: {error}") from error


def _split(
    model: nn.Module, points: Sequence[str], example: Any, select: Callable[[Any], Tensor]
) -> list[nn.Module]:
    by_mode: dict[bool, list[fx.Graph]] = {}
    traced: list[fx.Graph] = []
    for training in (True, False):
        structure = _copied(model)
        graph = trace(structure.train(training), _whole_submodules(structure, points), example, select)
        traced.append(graph)
        first = _first_nodes(graph, points)
        layers = split_graph(graph, first)
        if not any(map(_computes, layers[0].nodes)):  # a point at the beginning
            layers = split_graph(graph, first[1:])
        by_mode[training] = layers
    if returned_types(by_mode[True]) != returned_types(by_mode[False]):
        raise UserError("in training and in evaluation its submodules pass each other different tensors")
    pairs = zip(by_mode[True], by_mode[False], strict=True)
    split = [ModuleLayer(model, {True: train, False: evaluate}) for train, evaluate in pairs]
    check_same_result(model, split, example, select, other_lengths(traced, example))
    return list(split)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy that shares the weights."""
    try:
        return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    except Exception as error:  # parametrizations, locks and the like refuse
        raise UserError(f"it cannot be copied ({cause_of(error)})") from error


def _find(model: nn.Module, split_points: Sequence[str]) -> list[str]:
    """Return the names of the submodules that match, in the order of the model."""
    if isinstance(split_points, str):
        raise UserError(f"split points are a list of names, not the text {split_points!r}")
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    found: set[str] = set()
    for point in split_points:
        matching = {name for name in names if _matches(name, point)}
        if not matching:
            near = get_close_matches(point, names, 3) or names[:3]
            raise UserError(
                f"{type(model).__name__} has no submodule {point}; split points are names such as "
                f"{', '.join(near) or 'those of named_modules(), and it has none'}"
            )
        found |= matching
    if not found:
        raise UserError("there are no split points; give the names of submodules, such as blocks.*")
    return [name for name in names if name in found]


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _ancestors(points: Sequence[str]) -> set[str]:
    """Return the names of all modules with a split point inside; that of the model is ""."""
    return {
        "",
        *(path for point in points for path in list(accumulate(point.split("."), "{}.{}".format))[:-1]),
    }


def _whole_submodules(model: nn.Module, points: Sequence[str]) -> dict[str, nn.Module]:
    """Return the outermost submodules without a split point inside, by name."""
    ancestors = _ancestors(points)
    whole: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        parents = accumulate(name.split("."), "{}.{}".format)
        if (
            name
            and name not in ancestors
            and not isinstance(module, CONTAINERS)
            and whole.keys().isdisjoint(parents)
        ):
            whole[name] = module
    return whole


def _first_nodes(graph: fx.Graph, points: Sequence[str]) -> list[fx.Node]:
    """Return the first node of each split point, in their order in the graph."""
    missing = set(points)
    first: list[fx.Node] = []
    for node in graph.nodes:
        stack = {name.partition("@")[0] for name, _ in node.meta.get("nn_module_stack", {}).values()}
        begun = sorted(point for point in missing if f"model.{point}" in stack)
        if len(begun) > 1:
            raise UserError(f"{' and '.join(begun)} begin at the same place; leave one out")
        if begun:
            first.append(node)
            missing.discard(begun[0])
    if missing:
        raise UserError(f"its forward does not run {', '.join(sorted(missing))}")
    return first


def _computes(node: fx.Node) -> bool:
    return node.op not in ("placeholder", "output") and node.target is not operator.getitem


def _is_chain(model: nn.Module, points: Sequence[str]) -> bool:
    """Whether all that have a split point inside are `nn.Sequential`, without hooks, which would be lost."""
    parents = [model.get_submodule(name) for name in _ancestors(points)]
    hooks = [value for m in parents for name, value in vars(m).items() if name.endswith("_hooks")]
    plain = all(isinstance(m, nn.Sequential) and type(m).forward is nn.Sequential.forward for m in parents)
    return plain and not any(hooks)


def _split_chain(model: nn.Module, points: Sequence[str]) -> list[nn.Module]:
    layers = [ChainLayer()]
    for name, module in _whole_submodules(model, points).items():
        parents = list(accumulate(name.split("."), "{}.{}".format))
        if any(parent in points for parent in parents) and len(layers[-1]):
            layers.append(ChainLayer())
        owner: nn.Module = layers[-1]
        *path, last = name.split(".")
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Sequential())
            owner = owner.get_submodule(part)
        owner.add_module(last, module)
    return list(layers)


def _checked(example: Any) -> Any:
    """Return the example as a tensor, tuple or dict of tensors with at least two rows."""
    if isinstance(example, Mapping):
        example = dict(example)
    tensors = pytree.tree_leaves(example)
    if not tensors or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in tensors):
        raise UserError(
            "the example is a batch of inputs: a tensor (B, ...), or a tuple or dict of such tensors"
        )
    rows = {len(leaf) for leaf in tensors}
    if len(rows) > 1 or rows.pop() < 2:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tensors)
        raise UserError(
            f"the tensors of the example need the same number of rows, at least two, not {shapes}"
        )
    return pytree.tree_map(torch.clone, example)  # a tensor that comes twice would be one input


def _selector(kind: str, output: str | int | None) -> Callable[[Any], Tensor]:
    """Return the function that takes the result from what a model returns."""

    def select(returned: Any) -> Tensor:
        if isinstance(returned, Tensor):
            return returned
        items = dict(returned.items() if isinstance(returned, Mapping) else enumerate(returned))
        if output is not None and output in items:
            items = {output: items[output]}
        tensors = {name: value for name, value in items.items() if isinstance(value, Tensor)}
        if len(tensors) != 1 or (output is not None and output not in tensors):
            names = ", ".join(map(str, tensors))
            raise UserError(f"it returns the tensors {names}; choose one of them with output=")
        return next(iter(tensors.values()))

    return select
