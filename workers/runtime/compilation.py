"""Compiles layers ahead of training."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dni_async.boundary import TENSOR, Boundary, Extras
from dni_async.errors import UserError, cause_of
from dni_async.ownership import starts_in_place


def compile_ahead(
    layers: nn.Module,
    x: Tensor,
    extras: Extras = (),
    *,
    trains: bool,
    gradients: Iterable[bool],
    takes: Boundary = TENSOR,
    returns: Boundary = TENSOR,
    backend: str = "inductor",
) -> None:
    """Compile `layers` with torch.compile for batches like `x`, before any clock starts.

    torch compiles at the first calls, so this makes them, for training and for evaluation. Weights, buffers
    and random numbers are afterwards as they were.

    Args:
        x, extras: h (B, ...) and extras of a batch; compiled code takes any B.
        trains: whether the layers learn, so that a backward pass is compiled too.
        gradients: for each element, compile training with an x that needs a gradient, or not.
        takes, returns: how the input of the layers is packed into x and extras, and their output.

    Raises:
        UserError: torch cannot compile here.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes that outlives the run
    layers.compile(backend=backend)
    buffers = copy.deepcopy(dict(layers.named_buffers()))

    def call(learns: bool, needs_grad: bool) -> None:
        h = x.detach().clone().requires_grad_(needs_grad and x.is_floating_point())
        with torch.set_grad_enabled(learns):
            _call(layers, takes.unpack(h.clone() if starts_in_place(layers) else h, extras), returns, len(x))

    try:
        with torch.random.fork_rng([x.device] if x.is_cuda else []), warnings.catch_warnings():
            # dynamo looks at the .grad of whatever comes in
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            for needed in gradients:
                layers.train()
                call(trains, needed)
            layers.eval()
            call(False, False)
    except Exception as error:
        raise UserError(
            f"torch.compile does not work here ({cause_of(error)}); leave --compile out"
        ) from error
    layers.train().zero_grad()
    for name, buffer in layers.named_buffers():
        buffer.copy_(buffers[name])


def _call(layers: nn.Module, given: Any, returns: Boundary, rows: int) -> None:
    """Forward and, where gradients are recorded, backward of a batch of so many rows."""
    for tensor in tree_leaves(given):
        if isinstance(tensor, Tensor) and tensor.ndim and len(tensor) == rows:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)  # the last batch of an epoch is shorter
    output, _ = returns.pack(layers(given))
    if output.requires_grad:
        output.backward(torch.zeros_like(output))
