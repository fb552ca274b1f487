from __future__ import annotations

import json
from collections import OrderedDict, defaultdict
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_structure

from dni_async.trees import (
    describe_tree,
    first_tensor,
    in_order_of,
    map_tensors,
    structure_example,
    structure_state,
)

IDS, MASK = torch.arange(12).reshape(4, 3), torch.ones(4, 3, dtype=torch.bool)


def test_the_first_tensor_of_a_tree_is_that_of_its_rows() -> None:
    assert first_tensor(IDS) is IDS
    assert first_tensor([None, torch.tensor(1), {"a": MASK, "b": IDS}]) is MASK


def test_only_tensors_are_mapped() -> None:
    tree = {"ids": IDS, "rest": [None, 3, (MASK, "text")]}
    mapped = map_tensors(lambda tensor: tensor[:2], tree)
    assert mapped["rest"][:2] == [None, 3] and mapped["rest"][2][1] == "text"
    assert torch.equal(mapped["ids"], IDS[:2]) and torch.equal(mapped["rest"][2][0], MASK[:2])
    assert torch.equal(map_tensors(torch.neg, IDS), -IDS)


@pytest.mark.parametrize(
    "tree",
    [
        IDS,
        (IDS, [None, {"b": (), "a": IDS, 3: [IDS]}], "text"),
        [],
        {},
        [(IDS,)],
        OrderedDict(b=3, a=(4,)),
        {None: IDS},
    ],
)
def test_structures_survive_json(tree: Any) -> None:
    example = structure_example(json.loads(json.dumps(structure_state(tree))))
    assert tree_structure(example) == tree_structure(tree)


@pytest.mark.parametrize("tree", [(defaultdict(list),), {(1, 2): IDS}])
def test_trees_that_no_text_describes_have_no_state(tree: Any) -> None:
    with pytest.raises(TypeError, match="use tuples, lists and dicts"):
        structure_state(tree)


def test_keys_are_put_in_the_order_of_an_example() -> None:
    example: Any = ({"a": 1, "b": [{"c": 2, "d": 3}]}, 4)
    got = in_order_of(example, ({"b": [{"d": 30, "c": 20}], "a": 10}, 40))
    assert got == ({"a": 10, "b": [{"c": 20, "d": 30}]}, 40)
    assert (list(got[0]), list(got[0]["b"][0])) == (["a", "b"], ["c", "d"])
    for other in ({"a": 1}, [1, 2, 3], ({"a": 1, "c": 2}, 4), (1, 2, 3), None):
        assert in_order_of(example, other) is other or in_order_of(example, other) == other


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (IDS, "a tensor"),
        ((IDS, None), "(tensor, None)"),
        ({"ids": IDS, "rest": [3, "x", True]}, "{ids: tensor, rest: [3, 'x', True]}"),
        (object(), "object"),
        ([IDS] * 50, "[" + "tensor, " * 12 + "..."),
    ],
)
def test_trees_are_described_in_few_words(tree: Any, words: str) -> None:
    assert describe_tree(tree) == words
