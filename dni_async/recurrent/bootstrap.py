"""The gradient at the end of a window of truncated BPTT: synthetic, or a control that must not help."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from dni_async.networks.factory import build_synthesizer, resolve
from dni_async.networks.settings import SGConfig
from dni_async.recurrent.calibration import CalibratedPredictor
from dni_async.recurrent.through_time import MakePredictor
from dni_async.state.state_dict import State
from dni_async.synthesis.predictor import Predictor, PredictorWrapper

LARGE = 256
"""Above this width of the state least squares, whose cost grows with its cube, costs several windows."""


def dni_through_time(sg: SGConfig | None = None, seed: int = 0) -> MakePredictor:
    """Return what makes a `CalibratedPredictor` for a state (B, D).

    By default its SG network is fitted by least squares up to D = `LARGE`, and is linear above. Its rank is
    full, because it runs only once in a window of T steps.
    """
    given = sg or SGConfig()
    if given.rank is None:
        given = replace(given, rank=0)

    def make(state: Tensor) -> Predictor:
        shape = tuple(state.shape[1:])
        kind = "least-squares" if given.kind == "auto" and shape[0] <= LARGE else given.kind
        config = resolve(replace(given, kind=kind), shape, stages=1, conditional=False, classes=False)
        synthesizer = build_synthesizer(
            config, shape, label_size=0, condition=None, pending_capacity=2, device=state.device, seed=seed
        )
        # at least 32 bits, also where autocast made the state
        synthesizer.network.to(torch.promote_types(state.dtype, torch.float32))
        return CalibratedPredictor(synthesizer)

    return make


def permuted(make: MakePredictor, seed: int = 0) -> MakePredictor:
    """A control: every row gets the prediction for another row. A gain that it shows too is no prediction."""
    return lambda state: _Permuted(make(state), seed)


class _Permuted(PredictorWrapper):
    def __init__(self, predictor: Predictor, seed: int) -> None:
        super().__init__(predictor)
        self._generator = torch.Generator().manual_seed(seed)

    @override
    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        prediction = self.predictor.predict(step, version, h, y)
        if len(h) == 1:
            return torch.zeros_like(prediction)  # there is no other row
        # a shift, since a random permutation leaves one row in its place on average, which is enough to learn
        return prediction.roll(int(torch.randint(1, len(h), (), generator=self._generator)), 0)

    @override
    def state_dict(self) -> State:
        return {"predictor": self.predictor.state_dict(), "draws": self._generator.get_state()}

    @override
    def load_state_dict(self, state: State) -> None:
        self.predictor.load_state_dict(state["predictor"])
        self._generator.set_state(state["draws"])
