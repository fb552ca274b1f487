"""Trees of tensors: tuples, lists, dicts and other classes, nested as `torch.utils._pytree` knows them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import SUPPORTED_NODES, tree_leaves, tree_map_only, tree_structure

_LEAF = torch.empty(0)


def first_tensor(tree: Any) -> Tensor:
    """Return the first tensor (B, ...) of a tree that has one, such as one that `Boundary.of` took."""
    if isinstance(tree, Tensor):
        return tree
    return next(leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.ndim)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return the tree with `function` of every tensor in its place."""
    return function(tree) if isinstance(tree, Tensor) else tree_map_only(Tensor, function, tree)


def in_order_of(example: Any, tree: Any) -> Any:
    """Return the tree with the keys of its dicts in the order of an example's, where they have the same."""
    if type(tree) is not type(example):
        return tree
    if type(tree) is dict and tree.keys() == example.keys():
        return {key: in_order_of(part, tree[key]) for key, part in example.items()}
    if type(tree) in (tuple, list) and len(tree) == len(example):
        return type(tree)(map(in_order_of, example, tree))
    return tree


def structure_state(tree: Any) -> Any:
    """Return the structure of a tree, JSON-able; None for a leaf.

    Not `treespec_dumps` of torch: reading its text may import any module.

    Raises:
        TypeError: a key of a dict is no text or number, or a class cannot be found by its name or made again.
    """
    state = _state_of(tree)
    try:
        example = structure_example(json.loads(json.dumps(state)))
        survives = tree_structure(example) == tree_structure(tree)
    except Exception:  # of classes that others have written
        survives = False
    if not survives:
        raise TypeError("use tuples, lists and dicts with texts as keys, or other classes with plain fields")
    return state


def structure_example(state: Any) -> Any:
    """Return a tree, with empty tensors for leaves, of which `structure_state` returned the state.

    Raises:
        TypeError: a class in it has not been imported by this process.
    """
    if state is None:
        return _LEAF
    kind, parts = state
    if kind == "dict":
        return {key: structure_example(part) for key, part in parts}
    if kind == "node":
        path, context, parts = parts
        made = [structure_example(part) for part in parts]
        cls = _imported_class(path)
        return cls(*made) if _is_namedtuple(cls) else SUPPORTED_NODES[cls].unflatten_fn(made, context)
    made = [structure_example(part) for part in parts]
    return tuple(made) if kind == "tuple" else made


def _state_of(tree: Any) -> Any:
    cls = type(tree)
    if cls in (tuple, list):
        return [cls.__name__, [_state_of(part) for part in tree]]
    if cls is dict and all(type(key) in (str, int) for key in tree):
        return ["dict", [[key, _state_of(part)] for key, part in tree.items()]]
    if tree_structure(tree).is_leaf():
        return None
    path = f"{cls.__module__}:{cls.__qualname__}"
    parts, context = (tree, None) if _is_namedtuple(cls) else SUPPORTED_NODES[cls].flatten_fn(tree)
    if _imported_class(path) is not cls:
        raise TypeError(f"define {cls.__name__} at the top of a module")
    return ["node", [path, context, [_state_of(part) for part in parts]]]


def _imported_class(path: str) -> type:
    """Return the class of trees at a path, "module:Class". It is not imported for that: others may have
    written the path."""
    module, _, name = path.partition(":")
    cls = getattr(sys.modules.get(module), name, None)
    if not isinstance(cls, type) or not (_is_namedtuple(cls) or cls in SUPPORTED_NODES):
        raise TypeError(f"define {name} at the top of a module that the task's module imports ({path})")
    return cls


def _is_namedtuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def type_name(dtype: torch.dtype) -> str:
    """Return the name of a type, such as float32."""
    return str(dtype).removeprefix("torch.")


def describe_tree(value: object) -> str:
    """Return words for a tree, such as "(tensor, None)" or "{ids: tensor, mask: tensor}"."""
    text = "a tensor" if isinstance(value, Tensor) else _describe(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return "tensor"
    name = "" if type(value) in (tuple, list, dict) else type(value).__name__
    if isinstance(value, Mapping):
        return f"{name}{{{', '.join(f'{key}: {_describe(part)}' for key, part in value.items())}}}"
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_describe, value))
        return f"[{inner}]" if isinstance(value, list) else f"{name}({inner})"
    return repr(value) if value is None or isinstance(value, int | float | str) else name
