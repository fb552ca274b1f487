"""What a window of truncated BPTT ends in: a synthetic gradient, or the control that must not help."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dni_async.messages import TargetGradient
from dni_async.networks.factory import build_synthesizer, resolve
from dni_async.networks.settings import SGConfig
from dni_async.recurrent.calibration import CalibratedPredictor
from dni_async.recurrent.through_time import MakePredictor
from dni_async.rules.dni import StagePredictor
from dni_async.state.state_dict import State

LARGE = 256
"""Above this state least squares, whose cost grows with its cube, would cost several windows of the core."""


def dni_through_time(sg: SGConfig | None = None, seed: int = 0) -> MakePredictor:
    """Rule dni: a `CalibratedPredictor` SG network on the raw state (B, D).

    Unless `sg` says otherwise by least squares up to D = `LARGE`, linear above, of full rank: it works once
    in a window of T steps.
    """
    given = sg or SGConfig()
    if given.rank is None:
        given = replace(given, rank=0)

    def make(state: Tensor) -> StagePredictor:
        shape = tuple(state.shape[1:])
        kind = "least-squares" if given.kind == "auto" and shape[0] <= LARGE else given.kind
        config = resolve(replace(given, kind=kind), shape, stages=1, conditional=False, classes=False)
        synthesizer = build_synthesizer(
            config, shape, label_size=0, condition=None, pending_capacity=2, device=state.device, seed=seed
        )
        # not below 32 bits, whatever autocast made of the state
        synthesizer.network.to(torch.promote_types(state.dtype, torch.float32))
        return CalibratedPredictor(synthesizer)

    return make


def permuted(make: MakePredictor, seed: int = 0) -> MakePredictor:
    """The control: every row gets another row's prediction. A gain that it shows too is not prediction."""
    return lambda state: _Permuted(make(state), seed)


class _Permuted:
    """A predictor whose predictions are shuffled across the batch, while it learns as ever."""

    def __init__(self, predictor: StagePredictor, seed: int) -> None:
        self.predictor = predictor
        self._generator = torch.Generator().manual_seed(seed)

    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        prediction = self.predictor.predict(step, version, h, y)
        if len(h) == 1:
            return torch.zeros_like(prediction)  # there is no other row
        # a shift, since a random permutation leaves one row in its place on average, which is enough to learn
        return prediction.roll(int(torch.randint(1, len(h), (), generator=self._generator)), 0)

    def take(self, target: TargetGradient) -> int | None:
        return self.predictor.take(target)

    def stats(self) -> dict[str, Any]:
        return self.predictor.stats()

    def new_epoch(self) -> None:
        self.predictor.new_epoch()

    def discard(self, step: int) -> None:
        self.predictor.discard(step)

    def counters(self) -> State:
        return self.predictor.counters()

    def restore_counters(self, counters: State) -> None:
        self.predictor.restore_counters(counters)

    def state_dict(self) -> State:
        return {"predictor": self.predictor.state_dict(), "draws": self._generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        self.predictor.load_state_dict(state["predictor"])
        self._generator.set_state(state["draws"])
