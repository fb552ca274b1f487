"""h and extras of any type and shape as one tensor, and back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dni_async.boundary import TENSOR
from launch.engines.carrier import Carrier

H = {
    "floats": lambda rows: torch.randn(rows, 3, 2),
    "bf16": lambda rows: torch.randn(rows, 5).bfloat16(),
    "double": lambda rows: torch.randn(rows, 1, dtype=torch.float64),
    "whole numbers": lambda rows: torch.arange(rows * 3).reshape(rows, 3),
}


def extras(rows: int) -> tuple[Tensor, ...]:
    """With a row for each of `rows`, and without: of one byte to eight, NaN among them."""
    generator = torch.Generator().manual_seed(rows)
    noise = torch.randint(-(2**62), 2**62, (rows, 3), generator=generator)
    return (
        noise,
        noise > 0,
        torch.ones(5, 5, dtype=torch.bool).tril(),
        torch.full((rows, 1), float("nan")),
        torch.tensor(2.5, dtype=torch.float64),
        noise[:, 0].to(torch.uint8),
    )


@pytest.mark.parametrize("kind", H)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_h_and_extras_come_back_as_they_were(kind: str, rows: int) -> None:
    carrier = Carrier(TENSOR, (H[kind](1), extras(1)), (H[kind](2), extras(2)))
    h, others = H[kind](rows), extras(rows)
    joined = carrier.join(h, others)
    like = carrier.meta(rows)
    assert (joined.shape, joined.dtype) == (like.shape, like.dtype)
    got_h, got = carrier.split(joined)
    assert torch.equal(got_h, h)
    for one, wanted in zip(got, others, strict=True):
        assert one.dtype is wanted.dtype and torch.equal(one.nan_to_num(7), wanted.nan_to_num(7))
    assert [meta.shape for meta in carrier.metas(rows)] == [h.shape, *(extra.shape for extra in others)]


def test_only_h_gets_a_gradient() -> None:
    carrier = Carrier(TENSOR, (torch.zeros(1, 2), extras(1)), (torch.zeros(2, 2), extras(2)))
    h = torch.randn(3, 2, requires_grad=True)
    joined = carrier.join(h, extras(3))
    leaf = joined.detach().requires_grad_()
    part, _ = carrier.split(leaf)
    (2 * part.sum()).backward()
    assert leaf.grad is not None and leaf.grad.sum() == 12
    joined.backward(leaf.grad)
    assert torch.equal(h.grad, torch.full((3, 2), 2.0))


def test_h_alone_crosses_as_it_is() -> None:
    carrier = Carrier(TENSOR, (torch.zeros(1, 2, requires_grad=True), ()), (torch.zeros(2, 2), ()))
    h = torch.randn(3, 2)
    assert carrier.join(h, ()) is h and carrier.split(h) == (h, ())
    assert carrier.meta(3).shape == (3, 2) and carrier.meta(3).requires_grad
