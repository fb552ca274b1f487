"""Layers that bring in gradients of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from dni_async.recurrent.gradient_injection import inject_gradient


def test_the_root_gets_its_gradient_when_the_backward_comes_by() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    asked: list[str] = []

    def gradient() -> Tensor:
        asked.append("now")
        return torch.tensor(10.0)

    out = inject_gradient(3 * w, w.square().sum(), gradient)
    assert out.tolist() == [3.0, 6.0] and asked == []
    (5 * out).sum().backward()
    assert asked == ["now"]
    assert w.grad is not None and w.grad.tolist() == [15 + 10 * 2, 15 + 10 * 4]


def test_an_injected_output_is_contiguous_and_can_be_changed_in_place() -> None:
    w = torch.ones(2, 3, requires_grad=True)
    before = 2 * w.T
    out = inject_gradient(before, w.sum(), lambda: torch.tensor(1.0))
    assert out.is_contiguous()
    out.mul_(4).sum().backward()
    assert before[0, 0] == 2 and w.grad is not None and torch.equal(w.grad, torch.full((2, 3), 9.0))


def test_without_autograd_no_gradient_is_injected() -> None:
    with torch.no_grad():
        out = inject_gradient(torch.ones(2), torch.ones(()), lambda: torch.ones(()))
    assert not out.requires_grad and out.tolist() == [1.0, 1.0]
