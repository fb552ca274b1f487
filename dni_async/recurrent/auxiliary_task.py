"""The auxiliary task of DNI through time."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dni_async.networks import LinearSG
from dni_async.optim import optimizer_factory


class Auxiliary:
    """The auxiliary task (paper, section 3.2): foretell the prediction that ends the window.

    A linear map of the core's output after the window's first step is regressed on the SG network's
    prediction T - 1 steps later. Its gradient reaches the core, which is so rewarded for keeping what tells
    the gradient of the future, and through the window's start the SG network's targets.
    """

    def __init__(self, weight: float = 1.0, lr: float = 1e-3) -> None:
        self.weight = weight
        self.lr = lr
        self.network: LinearSG | None = None

    def loss(self, out: Tensor, wanted: Tensor) -> Tensor:
        """weight * mean squared error of the network's guess from out (B, H) to wanted (B, D)."""
        if self.network is None:
            self.network = LinearSG(out.shape[1], wanted.shape[1]).to(out)
            self._optimizer = optimizer_factory("adam", self.lr)(list(self.network.parameters()))
        return self.weight * F.mse_loss(self.network(out)[0], wanted)

    def step(self) -> None:
        """Update the network by what `backward` left in it, if anything."""
        if self.network is not None:
            self._optimizer.step()
            self._optimizer.zero_grad()
