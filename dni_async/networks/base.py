"""What every SG network is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DNINetwork(nn.Module):
    """Predicts the gradient at a stage's output h (Jaderberg et al. 2017, section 2.1, the model M).

    Predictions are in units of the per-sample loss, that is B * d(mean loss)/dh for a batch of B: the
    numbers stay of order one, where MSE and Adam work. The output layer starts at zero, so an
    untrained network predicts nothing rather than noise (section 3.1).

    A subclass writes `forward`. It may also say how it learns: `regress` is one mean-squared-error
    backward by default (section 2.1, ||M(h) - target||^2).
    """

    learns_when_predicting = False
    """Whether `synthesize` leaves gradients in the parameters, to be stepped at once."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = output_size

    def forward(
        self, input: Tensor, hidden: Tensor | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(gradient, hidden): input (B, ...), labels (B, C) floats or None, gradient like input."""
        raise NotImplementedError

    def synthesize(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """The predicted gradient, in the shape of `h` (B, ...), with nothing recorded for autograd."""
        with torch.no_grad():
            return self(h, None, labels)[0]

    def regress(self, h: Tensor, labels: Tensor | None, target: Tensor) -> Tensor:
        """Leave in `.grad` the gradient of the mean squared error to `target`; return the prediction.

        The prediction is a fresh one: regressing on the one made when the batch passed looks cheaper
        and ruins the tracking (92.4 % instead of 98.5 % on MNIST).
        """
        prediction = self(h, None, labels)[0]
        F.mse_loss(prediction, target).backward()
        return prediction.detach()


def zero_output(layer: nn.Linear | nn.Conv2d) -> None:
    """Start an output layer at zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def leave_gradient(parameter: nn.Parameter, gradient: Tensor | None) -> None:
    """Set `.grad`, in the parameter's memory layout as `backward` would.

    `autograd.grad` does not see to that, and the fused optimizers read both as flat arrays: with other
    strides they step the wrong elements, without a word (torch 2.13).
    """
    if gradient is not None and gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    parameter.grad = gradient


def along(labels: Tensor, h: Tensor) -> Tensor:
    """Labels (B, C) repeated over the time steps of h (B, T, D): (B, T, C)."""
    if labels.ndim == h.ndim:
        return labels
    return labels.unsqueeze(1).expand(-1, h.shape[1], -1)
