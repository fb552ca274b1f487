"""A predictor that is never wrong: with it, a decoupled run must equal backprop to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_async.boundary import TENSOR, Boundary, Extras
from dni_async.errors import StageError, UserError
from dni_async.messages import TargetGradient
from dni_async.optim import Updater
from dni_async.state.state_dict import State, load_random_state, random_state
from dni_async.synthesis.predictor import Predictor


class Oracle(Predictor):
    """Predicts by running a replica of everything downstream, and trains the replica alike.

    The replica sees the same batches in the same order as the real stages, so its weights equal theirs and
    its gradient is the exact one, however late the targets come. A target that differs from its prediction
    raises StageError. This checks the whole engine on any model; it costs more than backprop.

    Args:
        downstream: the layers from the next stage to the last.
        loss: (output (B, ...), y) -> scalar.
        updater: steps the replica's weights as the stages downstream step theirs.
        boundary: how the input of the layers is packed into h and `extras`.
    """

    def __init__(
        self,
        downstream: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        updater: Updater,
        boundary: Boundary = TENSOR,
    ) -> None:
        self.downstream = downstream
        self.loss = loss
        self.updater = updater
        self.boundary = boundary
        self.extras: Extras = ()
        """Of the batch that `predict` is called for."""
        self._predictions: dict[int, tuple[int, Tensor]] = {}

    @override
    def predict(self, step: int, version: int, h: Tensor, y: Any) -> Tensor:
        self.downstream.train()
        leaf = h.detach().requires_grad_()
        x = self.boundary.unpack(leaf.clone(), self.extras)  # a clone: the first layer may work in place
        self.loss(self.downstream(x), y).backward()
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad  # layers may give it none
        self.updater.step()
        self._predictions[step] = version, gradient
        return gradient

    @override
    def take(self, target: TargetGradient) -> int | None:
        version, prediction = self._predictions.pop(target.step)
        if not torch.equal(prediction, target.grad):
            off = float((prediction - target.grad).abs().max())
            raise StageError(f"target of step {target.step} differs from the oracle's by up to {off:.3g}")
        return version

    @override
    def discard(self, step: int) -> None:
        del self._predictions[step]

    @override
    def stats(self) -> dict[str, Any]:
        return {"sg_relative_error": 0.0, "sg_cosine": 1.0}

    @override
    def state_dict(self) -> State:
        raise UserError("rule oracle checks the pipeline and keeps no checkpoint; use another rule")


class SeparateRandomness(nn.Module):
    """Runs a module with random numbers of its own: those that its stage draws in another process.

    Without it, a replica would use other dropout masks than the stages downstream, and its gradient would not
    be exact.

    state: of the random generators before the first forward, as `random_state` returns it.
    """

    def __init__(self, module: nn.Module, state: State) -> None:
        super().__init__()
        self.module = module
        self._state = state

    def forward(self, x: Any) -> Any:
        """Return the output for x; the generators of the process stay as they are."""
        outside = random_state()
        load_random_state(self._state)
        try:
            output = self.module(x)
            self._state = random_state()
        finally:
            load_random_state(outside)
        return output
