"""Shrinks predictions by their recent correlation with the targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from dni_async.messages import TargetGradient
from dni_async.state.state_dict import State
from dni_async.synthesis.predictor import Predictor, PredictorWrapper

DECAY = 0.98
"""Of the running means, per target."""


class CalibratedPredictor(PredictorWrapper):
    """A synthetic gradient through time that does no harm where it cannot be predicted.

    The mean over the rows is removed: a constant push on the state drives all cells into saturation, where no
    gradient brings them back. The rest, p, is multiplied by the share that would have brought the recent
    predictions nearest to their targets t, whose mean over the rows is removed too:

        share = mean(p t) / mean(p p), clamped to 0 ... 1      1: exact    0: no use, plain truncated BPTT

    The predictor inside learns from every target. The prediction for a batch of one row is zero.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor)
        self._predictions: dict[int, Tensor] = {}
        self._means: Tensor | None = None
        """(2,) running means of p t and of p p, summed over a batch."""

    @override
    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        centred = _centred(self.predictor.predict(step, version, h, y))
        self._predictions[step] = centred
        return centred if self._means is None else centred * self._share()

    @override
    def take(self, target: TargetGradient) -> int | None:
        prediction = self._predictions.get(target.step)
        # targets come in order: those of earlier steps will never come
        self._predictions = {step: p for step, p in self._predictions.items() if step > target.step}
        if prediction is not None:
            prediction = prediction.to(target.grad)  # one from a checkpoint is on the CPU
            products = torch.stack([(prediction * _centred(target.grad)).sum(), prediction.square().sum()])
            before = torch.zeros_like(products) if self._means is None else self._means.to(products)
            self._means = before.lerp(products, 1 - DECAY)
        return super().take(target)

    @override
    def discard(self, step: int) -> None:
        self._predictions.pop(step, None)
        super().discard(step)

    @override
    def stats(self) -> dict[str, Any]:
        share = None if self._means is None else float(self._share())
        return super().stats() | {"sg_share": share}

    @override
    def restore_counters(self, counters: State) -> None:
        self._predictions.clear()
        super().restore_counters(counters)

    @override
    def state_dict(self) -> State:
        waiting = [{"step": step, "prediction": p} for step, p in self._predictions.items()]
        return {"predictor": self.predictor.state_dict(), "waiting": waiting, "means": self._means}

    @override
    def load_state_dict(self, state: State) -> None:
        self.predictor.load_state_dict(state["predictor"])
        self._predictions = {entry["step"]: entry["prediction"] for entry in state["waiting"]}
        self._means = state["means"]

    def _share(self) -> Tensor:
        assert self._means is not None
        agreement, size = self._means
        # the size is zero until something was predicted
        return (agreement / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp(0, 1)


def _centred(rows: Tensor) -> Tensor:
    """Return rows (B, D) less their mean."""
    return rows - rows.mean(0, keepdim=True)
