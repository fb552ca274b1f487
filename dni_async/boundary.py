"""What crosses from one layer to the next: any tree of tensors, packed into one tensor h and extras.

    layers return                                    h                          extras
    a tensor                                         the tensor itself          -
    (x, mask), where x needs a gradient              x                          mask
    {"a": (B, T, D), "b": (B, T, E)}, both need one  (B, T, D + E), joined      -
    (ids, mask), where none needs one                ids                        mask

So a rule, an SG network and a target gradient work on one tensor. Autograd goes through `pack` and `unpack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_structure, tree_unflatten

from dni_async.errors import UserError
from dni_async.joining import Join
from dni_async.messages import MAX_EXTRAS
from dni_async.trees import describe_tree, in_order_of, structure_example, structure_state

Role = Literal["h", "extra", "constant"]
Extras = tuple[Tensor, ...]

_CONSTANTS = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value in the tree."""

    role: Role
    """Of a tensor that is h or a part of it, of another tensor, or of a value that is always the same."""
    value: Any = None
    """Of a constant: None, a truth value, a number or a text."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """Packs what a layer returns, and unpacks it for the next one.

    The structure is the same for every batch. Sizes may differ from batch to batch, those of tensors that are
    joined as rows excepted.
    """

    spec: TreeSpec
    leaves: tuple[Leaf, ...]
    parts: Join | None = None
    """How tensors are joined to h; None: h is one of the tensors."""
    name: str = "the stage"
    """Who returns the tree, for errors."""
    is_tensor: bool = field(init=False)
    """Whether the tree is a single tensor."""
    extras: int = field(init=False)
    """The number of extras."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_tensor", self.spec.is_leaf())
        object.__setattr__(self, "extras", sum(leaf.role == "extra" for leaf in self.leaves))

    def __deepcopy__(self, memo: dict[int, Any]) -> Boundary:
        return self  # nothing in it ever changes

    @classmethod
    def of(cls, value: Any, name: str = "the stage") -> Boundary:
        """Return the boundary for trees like `value`: the tensors in it that need a gradient become h.

        Without any, the first tensor becomes h.

        Raises:
            UserError: there is no tensor (B, ...) in it, or a value that cannot be sent.
        """
        values, spec = tree_flatten(value)
        tensors = {i: leaf for i, leaf in enumerate(values) if isinstance(leaf, Tensor)}
        chosen = [i for i, leaf in tensors.items() if leaf.requires_grad]
        chosen = chosen or [i for i, leaf in tensors.items() if leaf.ndim][:1]
        _check_rows([tensors[i] for i in chosen], value, name)
        roles: list[Role] = ["h" if i in chosen else "extra" for i in range(len(values))]
        leaves = tuple(
            Leaf(role) if isinstance(leaf, Tensor) else _constant(leaf, value, name)
            for leaf, role in zip(values, roles, strict=True)
        )
        parts = Join.of([tensors[i] for i in chosen]) if len(chosen) > 1 else None
        boundary = cls(spec, leaves, parts, name)
        check_extras(boundary)
        return boundary

    def pack(self, value: Any) -> tuple[Tensor, Extras]:
        """Return h (B, ...) and the extras of a tree.

        Raises:
            UserError: its structure is another one, or a tensor needs a gradient that is not part of h.
        """
        if self.is_tensor:
            if isinstance(value, Tensor):
                return value, ()
            raise self._differs(value)
        values, spec = tree_flatten(value)
        if spec != self.spec:  # perhaps only the order of a dict's keys is another one
            values, spec = tree_flatten(in_order_of(self._example(), value))
            if spec != self.spec:
                raise self._differs(value)
        parts: list[Tensor] = []
        extras: list[Tensor] = []
        for got, leaf in zip(values, self.leaves, strict=True):
            if leaf.role == "constant":
                if isinstance(got, Tensor) or got != leaf.value:
                    raise self._differs(value)
            elif not isinstance(got, Tensor):
                raise self._differs(value)
            elif leaf.role == "h":
                parts.append(got)
            elif got.requires_grad:
                raise UserError(
                    f"{self.name} returned {describe_tree(value)}, where a tensor {tuple(got.shape)} needs a "
                    "gradient that needed none at the start; freeze or unfreeze weights before the start"
                )
            else:
                extras.append(got)
        if self.parts is None:
            return parts[0], tuple(extras)
        try:
            h, sizes = self.parts.join(parts)
        except RuntimeError:
            raise self._differs(value) from None
        return h, tuple(extras if sizes is None else [*extras, sizes])

    def unpack(self, h: Tensor, extras: Sequence[Tensor]) -> Any:
        """Return the tree that was packed into h (B, ...) and the extras."""
        if self.is_tensor:
            return h
        parts = iter((h,))
        if self.parts is not None:
            parts = self.parts.split(h, extras[self.extras] if len(extras) > self.extras else None)
        others = iter(extras)
        values = [
            leaf.value if leaf.role == "constant" else next(parts if leaf.role == "h" else others)
            for leaf in self.leaves
        ]
        return tree_unflatten(values, self.spec)

    def state_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-able.

        Raises:
            UserError: a class in the tree cannot be made again in another process.
        """
        try:
            structure = structure_state(self._example())
        except TypeError as error:
            raise UserError(f"{self.name} returned what cannot be sent: {error}") from None
        leaves, parts = (
            [[leaf.role, leaf.value] for leaf in self.leaves],
            self.parts and self.parts.state_dict(),
        )
        return {"structure": structure, "leaves": leaves, "parts": parts, "name": self.name}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Boundary:
        """Return the boundary of which `state_dict` returned the fields.

        Raises:
            UserError: this process has not imported a class of the tree.
        """
        try:
            spec = tree_structure(structure_example(state["structure"]))
        except TypeError as error:
            raise UserError(f"{state['name']} returned what cannot be received: {error}") from None
        parts = Join.from_state(state["parts"]) if state["parts"] else None
        return cls(spec, tuple(Leaf(*fields) for fields in state["leaves"]), parts, state["name"])

    def _example(self) -> Any:
        """Return a tree of this structure."""
        leaves = [leaf.value if leaf.role == "constant" else torch.empty(0) for leaf in self.leaves]
        return tree_unflatten(leaves, self.spec)

    def _differs(self, value: Any) -> UserError:
        wanted, got = (describe_tree(tree) for tree in (self._example(), value))
        if wanted == got:
            got += " of other shapes"
        return UserError(
            f"{self.name} returned {got} where {wanted} was expected; return the same structure for every "
            "batch"
        )


TENSOR = Boundary(tree_flatten(torch.empty(0))[1], (Leaf("h"),))
"""Where a single tensor crosses, which is h."""


def check_extras(boundary: Boundary, labels: int = 0) -> None:
    """Raise UserError if there are more extras than a message has room for, beside further `labels`."""
    extras = boundary.extras + labels + (boundary.parts is not None)
    if extras > MAX_EXTRAS:
        raise UserError(
            f"{boundary.name} returned {boundary.extras} tensors beside those that need a gradient, and a "
            f"batch has {labels} labels beside the first; at most {MAX_EXTRAS} can be sent, so join some"
        )


def _check_rows(parts: Sequence[Tensor], value: Any, name: str) -> None:
    """Check that h can be made of these tensors."""
    if not parts:
        raise UserError(f"{name} returned {describe_tree(value)}, without a tensor (B, ...); return one")
    if not all(part.ndim for part in parts):
        raise UserError(f"{name} returned a scalar that needs a gradient; return tensors (B, ...)")
    if len({len(part) for part in parts}) > 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise UserError(f"{name} returned tensors of different rows ({shapes}); return tensors (B, ...)")


def _constant(leaf: Any, value: Any, name: str) -> Leaf:
    if isinstance(leaf, _CONSTANTS):
        return Leaf("constant", leaf)
    ways = "return tensors, in tuples, lists or dicts"
    if is_dataclass(leaf):
        ways += f", or call torch.export.register_dataclass({type(leaf).__name__})"
    raise UserError(f"{name} returned {describe_tree(value)}; {ways}")
