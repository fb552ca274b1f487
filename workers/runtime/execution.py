"""How layers are run: in fp32, or in bf16 where that is safe; as they are, or compiled.

    fp32   layers                 -> loss                   nothing changes, bit for bit
    bf16   layers under autocast  -> loss under autocast    weights, gradients and optimizer stay fp32

What leaves a part of the network is what its last layer gives, so that with bf16 most activations and
target gradients travel in half the bytes. SG networks work in fp32 on what they are given.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.ownership import starts_in_place

PRECISIONS = ("fp32", "bf16")

F = TypeVar("F", bound=Callable[..., object])


def sequential(layers: Iterable[nn.Module], precision: str) -> nn.Sequential:
    """The layers as one module that works in `precision`; names of weights are those of nn.Sequential."""
    return (_Bf16 if precision == "bf16" else _Layers)(*layers)


def in_precision(function: F, precision: str, device: torch.device) -> F:
    """A function, such as a loss, that works in `precision` on tensors of `device`."""
    if precision == "fp32":
        return function
    return cast(F, torch.autocast(device.type, torch.bfloat16)(function))


def compile_ahead(
    layers: nn.Module, x: Tensor, *, trains: bool, gradients: Iterable[bool], backend: str = "inductor"
) -> None:
    """Compile `layers` with torch.compile for batches like x (B, ...) of any B, before any clock starts.

    torch compiles at the first calls, so this makes them: for training (with a backward pass where the layers
    learn: `trains`), once for each of `gradients`, which says whether x needs one, and for evaluation.
    Weights, buffers and random numbers are afterwards as they were.

    Raises UserError when torch cannot compile here.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes that outlives the run
    layers.compile(backend=backend)
    buffers = copy.deepcopy(dict(layers.named_buffers()))
    try:
        with torch.random.fork_rng([x.device] if x.is_cuda else []), warnings.catch_warnings():
            # dynamo looks at the .grad of whatever comes in
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            for needed in gradients:
                _call(layers.train(), x, trains, needed)
            _call(layers.eval(), x, False, False)
    except Exception as error:
        cause = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"torch.compile does not work here ({cause}); leave --compile out") from error
    layers.train().zero_grad()
    for name, buffer in layers.named_buffers():
        buffer.copy_(buffers[name])


def _call(layers: nn.Module, x: Tensor, trains: bool, needs_grad: bool) -> None:
    x = x.detach().clone().requires_grad_(needs_grad)
    with torch.set_grad_enabled(trains):
        x = x.clone() if starts_in_place(layers) else x
        torch._dynamo.maybe_mark_dynamic(x, 0)  # the last batch of an epoch is shorter
        h = layers(x)
        if h.requires_grad:
            h.backward(torch.zeros_like(h))


class _Layers(nn.Sequential):
    """nn.Sequential with a forward of our own: `compile()` passes over that of torch's containers."""

    def forward(self, input: Tensor) -> Tensor:
        """The output of the last layer."""
        output: Tensor = super().forward(input)
        return output

    def _get_name(self) -> str:
        return nn.Sequential.__name__


class _Bf16(_Layers):
    """Mixed precision as users have it. A class of its own, so that copies and slices keep it."""

    def forward(self, input: Tensor) -> Tensor:
        """The output, of the type that autocast gives it."""
        with torch.autocast(input.device.type, torch.bfloat16):
            return super().forward(input)
