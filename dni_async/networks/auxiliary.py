"""The auxiliary head of a stage with a local loss: a small network from its output to the task's output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni_async.networks.head import classifier


class AuxiliaryHead(nn.Module):
    """Maps h (B, *shape) to (B, *output_shape).

        (B, C, H, W)   the classifier of the head SG network, `hidden_size` channels
        (B, ..., D)    Linear(D, hidden_size), ReLU, Linear; per time step where the output has time steps

    With 128 hidden units it is the head of RECIPES on a fully connected stage (97.8 % on MNIST).
    """

    def __init__(self, shape: tuple[int, ...], output_shape: tuple[int, ...], hidden_size: int) -> None:
        super().__init__()
        self.output_shape = output_shape
        outputs = torch.Size(output_shape).numel()
        self.per_step = len(shape) != 3 and bool(output_shape) and shape[:-1] == output_shape[:-1]
        """Whether each position has an output of its own, so that there may be any number of them."""
        self.layers: nn.Sequential
        if len(shape) == 3:
            self.layers = classifier(shape[0], hidden_size, outputs, shape[1])
        elif self.per_step:
            self.layers = _perceptron(shape[-1], hidden_size, output_shape[-1])
        else:
            flat = torch.Size(shape).numel()
            self.layers = nn.Sequential(nn.Flatten(), *_perceptron(flat, hidden_size, outputs))

    def forward(self, h: Tensor) -> Tensor:
        """Return (B, *output_shape) for h (B, *shape) of any floating-point type."""
        if not torch.is_autocast_enabled(h.device.type):
            h = h.to(next(self.parameters()).dtype)
        output: Tensor = self.layers(h)
        return output if self.per_step else output.view(len(h), *self.output_shape)


def _perceptron(inputs: int, hidden_size: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden_size), nn.ReLU(), nn.Linear(hidden_size, outputs))
