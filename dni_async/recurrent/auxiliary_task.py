"""The auxiliary task of DNI through time (Jaderberg et al. 2017, section 3.2)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dni_async.networks import LinearSG
from dni_async.optim import optimizer_factory


class Auxiliary:
    """Predicts, from the output after the first step of a window, the synthetic gradient at its end.

    A linear map of the core's output is regressed on the SG network's prediction T - 1 steps later. Its
    gradient trains the core to keep what the future gradient depends on, and through the state at the
    window's start it reaches the SG network's targets.
    """

    def __init__(self, weight: float = 1.0, lr: float = 1e-3) -> None:
        self.weight = weight
        self.lr = lr
        self.network: LinearSG | None = None

    def loss(self, out: Tensor, wanted: Tensor) -> Tensor:
        """Return weight * mean squared error between the map of out (B, H) and wanted (B, D)."""
        if self.network is None:
            self.network = LinearSG(out.shape[1], wanted.shape[1]).to(out)
            self._optimizer = optimizer_factory("adam", self.lr)(list(self.network.parameters()))
        return self.weight * F.mse_loss(self.network(out)[0], wanted)

    def step(self) -> None:
        """Update the map with the gradients that `backward` left in it."""
        if self.network is not None:
            self._optimizer.step()
            self._optimizer.zero_grad()
