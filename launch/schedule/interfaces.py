"""What the ranks tell each other in their first call: the shapes between the stages, and who has labels.

rank 0   x ─► its module ─► (256, 64) ── store ──► rank 1   zeros (256, 64) ─► its module ─► (256, 10)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from workers.coordination.rendezvous import Rendezvous

Spec = list[Any]
"""Shape and type of a tensor, JSON-able."""


@dataclass(slots=True)
class Interfaces:
    """Shapes and types as tensors without memory."""

    output: Tensor
    """(B, ...) of this stage."""
    network_output: Tensor
    """(B, ...) of the last stage."""
    labels: Tensor
    """(B, ...)"""
    has_target: list[bool]
    """Which ranks were given the labels, by rank."""


def agree_on_interfaces(
    rendezvous: Rendezvous,
    module: nn.Module,
    x: Tensor | None,
    target: Tensor | None,
    device: torch.device,
    timeout: float,
) -> Interfaces:
    """Return the shapes of the pipeline; every rank has to call it.

    Args:
        x: (B, ...) the first batch, on rank 0.
        target: (B, ...) its labels, on the ranks that have them.

    Raises:
        UserError: no rank has labels, or the module does not map one tensor to one tensor.
        Late: a rank did not come within `timeout` seconds.
    """
    rank, last = rendezvous.rank, rendezvous.world - 1
    if x is None:
        shape, dtype = rendezvous.read(f"output/{rank - 1}", timeout)
        x = torch.zeros(shape, dtype=getattr(torch, dtype), device=device)
    output = _try_out(module, x, rank)
    rendezvous.publish(f"output/{rank}", _spec(output))
    specs = rendezvous.all_gather("labels", None if target is None else _spec(target), timeout)
    if not any(specs):
        raise UserError("no rank has labels; give target=y on the last rank, or on the first one with x")
    return Interfaces(
        _without_memory(_spec(output)),
        _without_memory(rendezvous.read(f"output/{last}", timeout)),
        _without_memory(next(filter(None, specs))),
        [spec is not None for spec in specs],
    )


def _try_out(module: nn.Module, x: Tensor, rank: int) -> Tensor:
    """Return the output for x (B, ...); weights, buffers and random numbers stay as they are."""
    training = module.training
    with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
        try:
            output = module.eval()(x.clone())
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            cause = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise UserError(
                f"stage {rank}: its module cannot take a batch {tuple(x.shape)} of {x.dtype} ({cause})"
            ) from error
        finally:
            module.train(training)
    if not isinstance(output, Tensor):
        raise UserError(f"stage {rank}: its module returned a {type(output).__name__}; return one tensor")
    return output


def _spec(tensor: Tensor) -> Spec:
    return [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]


def _without_memory(spec: Spec) -> Tensor:
    shape, dtype = spec
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
