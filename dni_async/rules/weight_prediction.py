"""Forward at the weights that are expected when the gradient comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dni_async.state.state_dict import State


class WeightPrediction:
    """Extrapolates the last update over the d updates until a gradient comes.

        weights     w[t-1]   w[t]               forward at w[t] + d (w[t] - w[t-1])
        update           u                      (SpecTrain, Chen et al. 2018, section 3; XPipe)

    Args:
        updates: d.
    """

    def __init__(self, updates: int) -> None:
        assert updates > 0, updates
        self.updates = updates
        self._layers: nn.Module | None = None
        self._before: list[Tensor] | None = None
        """The weights before the last update; None before the first."""

    def before_update(self) -> None:
        """Remember the weights, which are about to change."""
        if self._layers is not None:
            self._before = [weight.clone() for weight in _weights(self._layers)]

    @contextmanager
    def applied(self, layers: nn.Module) -> Iterator[None]:
        """Have the layers' weights be the predicted ones inside the block."""
        self._layers = layers
        weights = _weights(layers)
        if self._before is None or not weights:
            yield
            return
        now = [weight.clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_add_(weights, torch._foreach_sub(now, self._before), alpha=self.updates)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, now)

    def state_dict(self) -> State:
        """Return the weights before the last update."""
        return {"before": self._before}

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned."""
        before = state["before"]
        self._before = None if before is None else [weight.clone() for weight in before]


def _weights(layers: nn.Module) -> list[Tensor]:
    return [weight.detach() for weight in layers.parameters() if weight.requires_grad]
