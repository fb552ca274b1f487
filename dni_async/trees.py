"""Trees of tensors: tuples, lists and dicts, nested as `torch.utils._pytree` knows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only, tree_structure


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
    if isinstance(tree, dict) and tree.keys() == example.keys():
        return {key: in_order_of(part, tree[key]) for key, part in example.items()}
    if type(tree) in (tuple, list) and len(tree) == len(example):
        return type(tree)(map(in_order_of, example, tree))
    return tree


def structure_state(tree: Any) -> Any:
    """Return the structure of a tree of tuples, lists and dicts, JSON-able; None for a leaf.

    Not `treespec_dumps` of torch: reading its text may import any module.

    Raises:
        TypeError: another class is in it, or a key that is no text or number.
    """
    if type(tree) in (tuple, list):
        return [type(tree).__name__, [structure_state(part) for part in tree]]
    if type(tree) is dict and all(type(key) in (str, int) for key in tree):
        return ["dict", [[key, structure_state(part)] for key, part in tree.items()]]
    if not tree_structure(tree).is_leaf():
        name = type(tree).__name__
        raise TypeError(f"use tuples, lists and dicts with texts as keys ({name} is none of them)")
    return None


def structure_example(state: Any) -> Any:
    """Return a tree, with None for leaves, of which `structure_state` returned the state."""
    if state is None:
        return None
    kind, parts = state
    if kind == "dict":
        return {key: structure_example(part) for key, part in parts}
    made = [structure_example(part) for part in parts]
    return tuple(made) if kind == "tuple" else made


def describe_tree(value: object) -> str:
    """Return words for a tree, such as "(tensor, None)" or "{ids: tensor, mask: tensor}"."""
    text = "a tensor" if isinstance(value, Tensor) else _describe(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_describe(part)}' for key, part in value.items())}}}"
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_describe, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return repr(value) if value is None or isinstance(value, int | float | str) else type(value).__name__
