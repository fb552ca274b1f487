"""h and extras of any type and shape as one tensor, and back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni_async.boundary import TENSOR
from launch.engines.carrier import Carrier, PipeModule

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


class TestThroughHostMemory:
    """Layers on one device, torch's stages on another: the meta device plays the one that is not the CPU."""

    cpu, meta = torch.device("cpu"), torch.device("meta")
    carrier = Carrier(TENSOR, (H["floats"](1), ()), (H["floats"](2), ()))

    def test_what_comes_in_is_brought_to_the_layers(self) -> None:
        layers = nn.Linear(2, 4, device="meta")
        module = PipeModule(layers, self.carrier, self.carrier, False, True, self.meta, self.cpu)
        assert module(H["floats"](2)).device == self.meta

    def test_what_goes_out_is_brought_to_the_wire(self) -> None:
        module = PipeModule(nn.Linear(2, 4), self.carrier, self.carrier, True, False, self.cpu, self.meta)
        assert module(H["floats"](2)).device == self.meta

    def test_on_one_device_nothing_is_copied(self) -> None:
        module = PipeModule(nn.Identity(), self.carrier, self.carrier, False, False, self.cpu, self.cpu)
        h = H["floats"](2)
        assert module(h) is h
