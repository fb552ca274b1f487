"""When SG networks and weights are updated: at the end of a backward, or right after a forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.optim import Optimizer


class Updates:
    """State that the interfaces of one `DNI` share.

    Classic (g: prediction, t: target gradient):

        forward     layer 0: g0      layer 1: g1      loss
        backward    loss: t1 -> mix(g1, t1) -> layer 1 -> t0 -> mix(g0, t0) -> layer 0
        its end     SG networks learn from t1, t0; the optimizer steps; gradients are cleared

    Unlocked:

        forward     layer 0: g0, backward, step      layer 1: g1, backward (gives t0), step      loss
        backward    loss: t1
        its end     SG networks learn from t1, t0; the optimizer steps the other weights

    optimizer: None leaves gradients in `.grad` and steps nothing.
    """

    def __init__(self, mix: float, unlocked: bool, optimizer: Optimizer | None) -> None:
        self.mix = mix
        self.unlocked = unlocked
        self.optimizer = optimizer
        self.labels: Tensor | None = None
        """(B, C) or (B, T, C) floats of the batch under way, for conditional DNI."""
        self.classes = False
        """Whether these are one-hot classes."""
        self._arrived: dict[int, tuple[Callable[[Tensor], None], Tensor]] = {}
        self._local = False
        self._task: int | None = None

    def arrive(self, call: int, learn: Callable[[Tensor], None], target: Tensor) -> None:
        """Add a target gradient (B, ...), or a part of it, for a layer's `call`; `learn` is called with the
        sum."""
        if call in self._arrived:
            target = self._arrived[call][1] + target
        self._arrived[call] = learn, target
        if not self._local:
            self._finish_after_backward()

    def backward(self, h: Tensor, gradient: Tensor) -> None:
        """Backward of one layer from h (B, ...), during the forward of the network, and its update."""
        self._local = True
        try:
            # retained for the layers below a fork, which the other branch backpropagates through, too; the
            # graph is freed with h, since no other tensor refers to it
            torch.autograd.backward(h, gradient, retain_graph=True)
        finally:
            self._local = False
        self.step()

    def settle(self) -> None:
        """Train the SG networks on the targets that have arrived."""
        arrived, self._arrived = self._arrived, {}
        with torch.enable_grad():  # it is off at the end of a backward
            for learn, target in arrived.values():
                learn(target)

    def step(self) -> None:
        """Step the weights that have a gradient, and clear it, so that a later step does not repeat it."""
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _finish_after_backward(self) -> None:
        # Both are private, and the only way to learn when a backward ends; DDP and FSDP use them, too.
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task = task
            Variable._execution_engine.queue_callback(self._finish)

    def _finish(self) -> None:
        self.settle()
        self.step()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrived": {}, "_local": False, "_task": None, "labels": None}
