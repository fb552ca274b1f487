"""Takes of a prediction only what is known to be good: what differs from row to row, as far as it agrees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dni_async.messages import TargetGradient
from dni_async.rules.dni import StagePredictor
from dni_async.state.state_dict import State

DECAY = 0.98
"""Of the running means, per target."""


class CalibratedPredictor:
    """A synthetic gradient through time that does no harm where it cannot be predicted.

    What all rows have in common is taken off: a constant push on the state has all cells run into saturation,
    and there no gradient brings them back. Of what is left, p, a share is given, which would have brought
    the predictions of late nearest to their targets t (their rows' mean taken off, too):

        share = mean(p t) / mean(p p), from 0 to 1         1: exact    0: of no use, as in truncated BPTT

    The predictor inside learns as ever. A batch of one row gets nothing.
    """

    def __init__(self, predictor: StagePredictor) -> None:
        self.predictor = predictor
        self._predictions: dict[int, Tensor] = {}
        self._means: Tensor | None = None
        """Of p t and of p p, sums over a batch."""

    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        """The share of the prediction's own part, (B, D)."""
        own = _own(self.predictor.predict(step, version, h, y))
        self._predictions[step] = own
        return own if self._means is None else own * self._share()

    def take(self, target: TargetGradient) -> int | None:
        """Learn, and see how well it was predicted."""
        prediction = self._predictions.get(target.step)
        # targets come in their order: those before this one never will
        self._predictions = {step: p for step, p in self._predictions.items() if step > target.step}
        if prediction is not None:
            prediction = prediction.to(target.grad)  # that of a checkpoint is on the CPU
            products = torch.stack([(prediction * _own(target.grad)).sum(), prediction.square().sum()])
            before = torch.zeros_like(products) if self._means is None else self._means.to(products)
            self._means = before.lerp(products, 1 - DECAY)
        return self.predictor.take(target)

    def discard(self, step: int) -> None:
        """No target will come for this one."""
        self._predictions.pop(step, None)
        self.predictor.discard(step)

    def stats(self) -> dict[str, Any]:
        """Also `sg_share`."""
        share = None if self._means is None else float(self._share())
        return self.predictor.stats() | {"sg_share": share}

    def new_epoch(self) -> None:
        """Start running means that are shown over; the share goes on."""
        self.predictor.new_epoch()

    def counters(self) -> State:
        """What is counted inside."""
        return self.predictor.counters()

    def restore_counters(self, counters: State) -> None:
        """Count on from there, and forget what waits."""
        self._predictions.clear()
        self.predictor.restore_counters(counters)

    def state_dict(self) -> State:
        """With the predictions whose targets are to come."""
        waiting = [{"step": step, "prediction": p} for step, p in self._predictions.items()]
        return {"predictor": self.predictor.state_dict(), "waiting": waiting, "means": self._means}

    def load_state_dict(self, state: State) -> None:
        """Go on from there."""
        self.predictor.load_state_dict(state["predictor"])
        self._predictions = {entry["step"]: entry["prediction"] for entry in state["waiting"]}
        self._means = state["means"]

    def _share(self) -> Tensor:
        assert self._means is not None
        agreement, size = self._means
        # nothing was predicted yet where the size is zero
        return (agreement / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp(0, 1)


def _own(rows: Tensor) -> Tensor:
    """What a row has that not all rows have."""
    return rows - rows.mean(0, keepdim=True)
