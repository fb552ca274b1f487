"""Trees of tensors are packed into h and extras, and unpacked to what they were."""

from __future__ import annotations

import copy
import json
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.export import register_dataclass

from dni_async.boundary import TENSOR, Boundary, check_extras
from dni_async.errors import UserError
from dni_async.messages import MAX_EXTRAS
from tests.support.trees import assert_equal


def x(*shape: int, grad: bool = True) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_(grad)


IDS, MASK = torch.arange(12).reshape(4, 3), torch.ones(4, 3, dtype=torch.bool)


class Pair(NamedTuple):
    h: Any
    mask: Any = None


@dataclass
class Output:
    h: Tensor
    states: tuple[Tensor, ...] | None = None


register_dataclass(Output)


@dataclass
class Unknown:
    h: Tensor


TREES = {
    "tensor": (lambda: x(4, 3), (4, 3), 0),
    "list of one": (lambda: [x(4, 3)], (4, 3), 0),
    "mask beside": (lambda: (MASK, x(4, 3, 2)), (4, 3, 2), 1),
    "dict": (lambda: {"b": x(4, 3, 2), "a": x(4, 3, 5), "ids": IDS}, (4, 3, 7), 1),
    "nested": (lambda: [{"a": (x(4, 2), None)}, x(4, 2, 2), 7, "text"], (4, 6), 0),
    "float beside": (lambda: (x(4, 3), x(4, 5, grad=False), torch.tensor(3.0)), (4, 3), 2),
    "without gradient": (lambda: (torch.tensor(3.0), IDS, x(4, 3, grad=False)), (4, 3), 2),
    "integers": (lambda: {"ids": IDS, "mask": MASK}, (4, 3), 1),
    "namedtuple": (lambda: Pair(x(4, 3), MASK), (4, 3), 1),
    "namedtuple in a list": (lambda: [Pair({"a": x(4, 3)})], (4, 3), 0),
    "dataclass": (lambda: Output(x(4, 3), (x(4, 2), IDS)), (4, 5), 1),
    "dataclass without a field": (lambda: Output(x(4, 3)), (4, 3), 0),
    "ordered dict": (lambda: OrderedDict(b=x(4, 3), a=IDS), (4, 3), 1),
    "what torch returns": (lambda: torch.max(x(4, 3, 2), 1), (4, 2), 1),
    "constant tensor": (lambda: (x(4, 3, 2), torch.ones(3, 3, dtype=torch.bool)), (4, 3, 2), 1),
}


@pytest.mark.parametrize("name", TREES)
def test_trees_are_packed_into_h_and_extras_and_come_back(name: str) -> None:
    make, shape, extras = TREES[name]
    tree = make()
    boundary = Boundary.of(tree)
    h, others = boundary.pack(tree)
    assert (h.shape, len(others), boundary.extras) == (shape, extras, extras)
    assert not any(extra.requires_grad for extra in others)
    assert_equal(boundary.unpack(h, others), tree)
    again = Boundary.from_state(json.loads(json.dumps(boundary.state_dict())))
    assert again == boundary
    assert_equal(again.unpack(*again.pack(tree)), tree)


def test_a_copy_of_a_boundary_is_the_same() -> None:
    boundary = Boundary.of((x(4, 3), MASK))
    assert copy.deepcopy([boundary])[0] is boundary


def test_one_tensor_is_neither_copied_nor_wrapped() -> None:
    h = x(4, 3)
    assert Boundary.of(h).is_tensor and TENSOR.is_tensor
    for boundary in (TENSOR, Boundary.of(h), Boundary.of((h, MASK))):
        tree: Any = h if boundary.is_tensor else (h, MASK)
        packed, extras = boundary.pack(tree)
        assert packed is h and list(extras) == ([] if boundary.is_tensor else [MASK])
    assert TENSOR.unpack(h, ()) is h


def test_the_gradient_of_h_reaches_every_tensor_that_needs_one() -> None:
    tree = {"a": x(4, 2), "ids": IDS, "b": x(4, 3)}
    h, _ = Boundary.of(tree).pack(tree)
    gradient = torch.randn(h.shape)
    h.backward(gradient)
    assert_equal({"a": tree["a"].grad, "b": tree["b"].grad}, {"a": gradient[:, :2], "b": gradient[:, 2:]})


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        (
            (x(4, 3), MASK),
            [x(4, 3), MASK],
            r"returned \[tensor, tensor\] where \(tensor, tensor\) was expected",
        ),
        (x(4, 3), (x(4, 3),), r"returned \(tensor\) where a tensor was expected"),
        ([x(4, 3)], x(4, 3), r"returned a tensor where \[tensor\] was expected"),
        ((x(4, 3), None), (x(4, 3), MASK), r"\(tensor, tensor\) where \(tensor, None\)"),
        ((x(4, 3), MASK), (x(4, 3), None), r"\(tensor, None\) where \(tensor, tensor\)"),
        ((x(4, 3), 4), (x(2, 3), 2), r"\(tensor, 2\) where \(tensor, 4\)"),
        ({"a": x(4, 3)}, {"b": x(4, 3)}, r"\{b: tensor\} where \{a: tensor\}"),
        ((x(4, 3), x(4, 2, 2)), (x(4, 3), x(4, 2, 3)), r"\(tensor, tensor\) of other shapes where"),
        (x(4, 3), None, "returned None where a tensor was expected"),
    ],
)
def test_another_structure_is_refused_in_one_line(first: Any, then: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        Boundary.of(first, "layer 2 (Block)").pack(then)
    assert str(raised.value).startswith("layer 2 (Block) returned") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ((), "without a tensor"),
        ((None, 3), "without a tensor"),
        ((torch.tensor(3.0), 3), "without a tensor"),
        ((x(4, 3), object()), r"\(tensor, object\); return tensors"),
        (
            (x(4, 3), Unknown(x(4, 3))),
            r"Unknown\); return tensors, .* torch.export.register_dataclass\(Unknown\)",
        ),
        ((x(4, 3), x(3, 3)), r"different rows \(\(4, 3\), \(3, 3\)\)"),
        ((x(4, 3), x()), "a scalar that needs a gradient"),
        ((x(4, 3), *[MASK] * (MAX_EXTRAS + 1)), "at most 14 can be sent"),
    ],
)
def test_what_cannot_cross_is_refused_in_one_line(tree: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        Boundary.of(tree, "layer 2 (Block)")
    assert "layer 2 (Block) returned" in str(raised.value) and "\n" not in str(raised.value)


def test_the_order_of_the_keys_of_a_dict_may_change() -> None:
    boundary = Boundary.of([{"a": x(4, 2), "ids": IDS, "b": x(4, 3)}, None])
    h, extras = boundary.pack([{"b": x(4, 3), "a": x(4, 2), "ids": IDS}, None])
    got = boundary.unpack(h, extras)[0]
    assert list(got) == ["a", "ids", "b"] and torch.equal(got["b"], x(4, 3)) and got["ids"] is IDS


def test_a_gradient_that_would_get_lost_is_refused() -> None:
    boundary = Boundary.of((x(4, 3), x(4, 3, grad=False)))
    with pytest.raises(UserError, match=r"a tensor \(4, 3\) needs a gradient that needed none at the start"):
        boundary.pack((x(4, 3), x(4, 3)))


def test_a_class_that_no_other_process_can_find_is_refused_in_one_line() -> None:
    pair = namedtuple("pair", "a b")
    with pytest.raises(UserError, match="returned what cannot be sent: define pair at the top of a module"):
        Boundary.of(pair(x(4, 3), MASK)).state_dict()


def test_a_class_that_is_not_imported_is_not_imported_for_a_boundary() -> None:
    state = Boundary.of(Pair(x(4, 3))).state_dict()
    for path in ("antigravity:Pair", "json:JSONDecoder", "os:system"):
        state["structure"][1][0] = path
        with pytest.raises(UserError, match=r"the stage returned what cannot be received: define .*" + path):
            Boundary.from_state(state)
    assert "antigravity" not in sys.modules


def test_another_class_of_the_same_fields_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match=r"returned \(tensor, tensor\) where Pair\(tensor, tensor\) was"):
        Boundary.of(Pair(x(4, 3), MASK)).pack((x(4, 3), MASK))


def test_extras_and_further_labels_share_the_room_of_a_message() -> None:
    boundary = Boundary.of((x(4, 3), *[MASK] * 10))
    check_extras(boundary, 4)
    with pytest.raises(UserError, match=r"10 tensors beside those .* 5 labels"):
        check_extras(boundary, 5)
