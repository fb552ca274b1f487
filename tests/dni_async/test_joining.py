"""Several tensors as one, and back, with their gradients."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from dni_async.joining import ROWS, Join


def parts_of(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)]


def there_and_back(join: Join, parts: list[Tensor]) -> list[Tensor]:
    return list(join.split(*join.join(parts)))


@pytest.mark.parametrize(
    ("shapes", "dim", "joined"),
    [
        ([(4, 5, 3), (4, 5, 7)], 2, (4, 5, 10)),
        ([(4, 3), (4, 7)], 1, (4, 10)),
        ([(4, 2, 6, 6), (4, 3, 6, 6)], 1, (4, 5, 6, 6)),
        ([(4, 2, 6, 6), (4, 2, 6, 6)], 1, (4, 4, 6, 6)),
        ([(4, 5, 3), (4, 8, 3)], 1, (4, 13, 3)),
        ([(4, 5, 3), (4, 5, 3), (4, 5, 1)], 2, (4, 5, 7)),
        ([(4, 5, 3), (4, 2)], ROWS, (4, 17)),
        ([(4, 5, 3), (4, 2, 2)], ROWS, (4, 19)),
        ([(4,), (4,)], ROWS, (4, 2)),
        ([(4,), (4, 2, 3)], ROWS, (4, 7)),
    ],
)
def test_tensors_are_joined_where_alone_they_differ(
    shapes: list[tuple[int, ...]], dim: int, joined: tuple[int, ...]
) -> None:
    parts = parts_of(*shapes)
    join = Join.of(parts)
    assert (join.dim, join.join(parts)[0].shape) == (dim, joined)
    for got, wanted in zip(there_and_back(join, parts), parts, strict=True):
        assert torch.equal(got, wanted) and got.is_contiguous()


@pytest.mark.parametrize(
    "shapes", [[(4, 5, 3), (4, 5, 7)], [(4, 2, 6, 6), (4, 3, 6, 6)], [(4, 5), (4, 2, 2)]]
)
def test_each_part_of_a_joined_gradient_reaches_its_tensor(shapes: list[tuple[int, ...]]) -> None:
    parts = [part.requires_grad_() for part in parts_of(*shapes)]
    joined, _ = Join.of(parts).join(parts)
    gradient = torch.randn_like(joined)
    joined.backward(gradient)
    for part, wanted in zip(parts, Join.of(parts).split(gradient, None), strict=True):
        assert part.grad is not None and torch.equal(part.grad, wanted)


def test_the_gradients_of_split_tensors_are_joined() -> None:
    parts = parts_of((4, 3), (4, 2))
    leaf = Join.of(parts).join(parts)[0].requires_grad_()
    first, second = Join.of(parts).split(leaf, None)
    (2 * first.sum() + 3 * second.sum()).backward()
    assert torch.equal(leaf.grad, torch.tensor([[2.0, 2.0, 2.0, 3.0, 3.0]] * 4))


@pytest.mark.parametrize("rows", [1, 4])
def test_what_is_written_to_a_split_tensor_does_not_reach_the_joined_one(rows: int) -> None:
    parts = parts_of((rows, 3), (rows, 2))
    joined, _ = Join.of(parts).join(parts)
    before = joined.clone()
    for part in Join.of(parts).split(joined, None):
        part.zero_()
    assert torch.equal(joined, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_types_are_promoted_and_restored(dtype: torch.dtype) -> None:
    parts = parts_of((4, 3), (4, 2))
    parts[1] = parts[1].to(dtype)
    join = Join.of(parts)
    assert join.join(parts)[0].dtype is torch.promote_types(torch.float32, dtype)
    got = there_and_back(join, parts)
    assert [part.dtype for part in got] == [torch.float32, dtype]
    assert all(torch.equal(a, b) for a, b in zip(got, parts, strict=True))


def test_sizes_may_change_from_batch_to_batch() -> None:
    join = Join.of(parts_of((4, 5, 3), (4, 8, 3)))
    for shapes in ([(2, 9, 3), (2, 1, 3)], [(4, 5, 3), (4, 8, 3)], [(1, 1, 3), (1, 2, 3)]):
        parts = parts_of(*shapes)
        joined, sizes = join.join(parts)
        assert (sizes is None) == (shapes[0][1:] == (5, 3))
        assert all(torch.equal(a, b) for a, b in zip(join.split(joined, sizes), parts, strict=True))
    longer = parts_of((2, 9, 3), (2, 9, 4))
    assert Join.of(parts_of((4, 5, 3), (4, 5, 4))).join(longer)[1] is None


@pytest.mark.parametrize(
    ("example", "shapes"),
    [
        ([(4, 5), (4, 2, 2)], [(4, 5), (4, 2, 3)]),
        ([(4, 5, 3), (4, 5, 7)], [(4, 5, 3), (4, 6, 7)]),
    ],
)
def test_tensors_that_cannot_be_joined_like_the_example_are_refused(
    example: list[tuple[int, ...]], shapes: list[tuple[int, ...]]
) -> None:
    with pytest.raises(RuntimeError):
        Join.of(parts_of(*example)).join(parts_of(*shapes))


def test_a_join_survives_json() -> None:
    join = Join.of([*parts_of((4, 5, 3)), torch.zeros(4, 2, dtype=torch.bfloat16)])
    assert Join.from_state(json.loads(json.dumps(join.state_dict()))) == join
