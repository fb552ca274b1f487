"""Check that layers compute what the model computes from which they were split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dni_async.errors import UserError, cause_of
from dni_async.partition.module_trace import call_model


def check_same_result(
    model: nn.Module,
    layers: Sequence[nn.Module],
    example: Any,
    select: Callable[[Any], Tensor],
    others: Sequence[Any] = (),
) -> None:
    """Compare result and gradients in training, and results in evaluation for two sizes of a batch.

    Both draw the same random numbers. Weights on the meta device cannot be compared.

    Args:
        select: returns the result among what the model returns.
        others: inputs of other lengths than the example, compared in evaluation where the model takes them.

    Raises:
        UserError: they differ by more than rounding.
    """
    if any(tensor.is_meta for tensor in model.parameters()):
        return
    chain = nn.Sequential(*layers)
    rows = len(pytree.tree_leaves(example)[0])
    for training in (True, False):
        for count in (rows,) if training else (rows, rows - 1):
            inputs = pytree.tree_map(lambda x, count=count: x[:count], example)
            expected = _result(model, chain, lambda x: select(call_model(model, x)), inputs, training)
            try:
                found = _result(model, chain, chain, inputs, training)
            except Exception as error:
                raise UserError(
                    f"layers fail for {count} rows where the model does not ({cause_of(error)})"
                ) from error
            _compare(expected, found, "training" if training else "evaluation")
    for inputs in others:
        try:
            expected = _result(model, chain, lambda x: select(call_model(model, x)), inputs, False)
        except Exception:  # for example, a table has no such position
            continue
        try:
            _compare(expected, _result(model, chain, chain, inputs, False), "evaluation")
        except Exception as error:
            given, other = (
                ", ".join(str(tuple(x.shape)) for x in pytree.tree_leaves(each)) for each in (example, inputs)
            )
            raise UserError(
                f"its own forward decides by a length: for inputs {other} it takes another way than for the "
                f"example's {given}; move that into a submodule"
            ) from error


def _result(
    model: nn.Module, chain: nn.Module, compute: Callable[[Any], Tensor], inputs: Any, training: bool
) -> list[Tensor | None]:
    """Return what `_computed` returns in a mode; the model and the chain stay as they are."""
    with _unchanged(model, chain):
        model.train(training)
        chain.train(training)
        return _computed(compute, inputs, model, training)


def _computed(
    compute: Callable[[Any], Tensor], inputs: Any, model: nn.Module, training: bool
) -> list[Tensor | None]:
    """Return the result and, in training, the gradient of each weight."""
    with torch.set_grad_enabled(training):
        result = compute(inputs)
    if not result.requires_grad:
        return [result]
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    factors = torch.linspace(0.5, 1, result.numel(), device=result.device).view_as(result)
    gradients = torch.autograd.grad((result.float() * factors).sum(), weights, allow_unused=True)
    return [result.detach(), *gradients]


def _compare(model: Sequence[Tensor | None], layers: Sequence[Tensor | None], mode: str) -> None:
    for expected, found in zip(model, layers, strict=True):
        if expected is None and found is None:
            continue
        if expected is None or found is None or expected.shape != found.shape:
            raise UserError(f"in {mode}, layers compute another result than the model")
        difference = (expected.float() - found.float()).abs().max().item() if expected.numel() else 0.0
        scale = expected.float().abs().max().item() if expected.numel() else 0.0
        if not difference <= 1e-3 * scale + 1e-5:
            raise UserError(
                f"in {mode}, layers compute another result than the model (they differ by {difference:.2g} "
                f"of {scale:.2g}); its forward depends on something that torch.export does not see"
            )


@contextmanager
def _unchanged(*modules: nn.Module) -> Iterator[None]:
    """While open, random numbers are always the same; then they, modes and buffers are as they were."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    devices = {tensor.device for module in modules for tensor in module.parameters() if tensor.is_cuda}
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for part, mode in modes:
            part.training = mode
