"""A synthesizer that is never wrong: with it, a decoupled run must equal backprop to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.errors import StageError, UserError
from dni_async.messages import TargetGradient
from dni_async.optim import Updater
from dni_async.state.state_dict import State


class Oracle:
    """Predicts by running a replica of everything downstream, and trains that replica alike.

    The replica sees the same batches in the same order as the real stages, so its weights stay equal
    to theirs, and its gradient is the exact one, however late the targets come. When a target arrives
    it must equal the prediction; StageError otherwise. This checks the whole engine on any model
    (rule `oracle`); it costs more than backprop and is no way to train.

    downstream: the layers from the next stage to the last. loss: (output, y) -> scalar.
    """

    def __init__(
        self, downstream: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], updater: Updater
    ) -> None:
        self.downstream = downstream
        self.loss = loss
        self.updater = updater
        self._predictions: dict[int, tuple[int, Tensor]] = {}

    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        """The exact gradient of the mean loss at h (B, ...)."""
        self.downstream.train()
        leaf = h.detach().requires_grad_()
        self.loss(self.downstream(leaf.clone()), y).backward()  # a clone: its first layer may work in place
        assert leaf.grad is not None
        self.updater.step()
        self._predictions[step] = version, leaf.grad
        return leaf.grad

    def take(self, target: TargetGradient) -> int | None:
        """Compare the target with the prediction, bit for bit."""
        version, prediction = self._predictions.pop(target.step)
        if not torch.equal(prediction, target.grad):
            off = float((prediction - target.grad).abs().max())
            raise StageError(f"target of step {target.step} differs from the oracle's by up to {off:.3g}")
        return version

    def discard(self, step: int) -> None:
        """Compare with nothing."""
        del self._predictions[step]

    def stats(self) -> dict[str, Any]:
        """Exact, so nothing to measure."""
        return {"sg_relative_error": 0.0, "sg_cosine": 1.0}

    def new_epoch(self) -> None:
        """Nothing to start over."""

    def counters(self) -> State:
        """Nothing to count."""
        return {}

    def restore_counters(self, counters: State) -> None:
        """Raises UserError, as `state_dict` does."""
        self.state_dict()

    def state_dict(self) -> State:
        """Raises UserError: a check that was interrupted is done again."""
        raise UserError("rule oracle checks the pipeline and keeps no checkpoint; use another rule")

    def load_state_dict(self, state: State) -> None:
        """Raises UserError, as `state_dict` does."""
        self.state_dict()
