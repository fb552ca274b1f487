"""SG networks of vectors at the output of convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from typing_extensions import override

from dni_async.networks.base import DNINetwork, check_prediction


class Flattened(DNINetwork):
    """Applies a network for (B, D) to (B, C, H, W).

    The network inside predicts, learns and has the hidden state, by methods that it may override.
    """

    def __init__(self, network: DNINetwork) -> None:
        super().__init__(network.input_size, network.hidden_size, network.output_size)
        self.network = network
        self.learns_when_predicting = network.learns_when_predicting

    @override
    def forward(self, input: Tensor, hidden: Any = None, labels: Tensor | None = None) -> tuple[Tensor, Any]:
        flat = input.flatten(1)
        gradient, hidden = self.network._predict(flat, hidden, labels)
        check_prediction(self.network, gradient, flat)
        return gradient.view_as(input), hidden

    @override
    def samples_in(self, h: Tensor) -> int:
        return self.network.samples_in(h.flatten(1))

    @override
    def reset(self) -> None:
        self.network.reset()

    @override
    def start(self, h: Tensor) -> Any:
        return self.network.start(h.flatten(1))

    @override
    @contextmanager
    def at(self, hidden: Any) -> Iterator[None]:
        with self.network.at(hidden):
            yield

    @override
    def synthesize(self, h: Tensor, labels: Tensor | None) -> Tensor:
        flat = h.flatten(1)
        prediction = self.network.synthesize(flat, labels)
        check_prediction(self.network, prediction, flat)
        return prediction.view_as(h)

    @override
    def regress(self, h: Tensor, labels: Tensor | None, target: Tensor) -> Tensor:
        flat = h.flatten(1)
        prediction = self.network.regress(flat, labels, target.flatten(1))
        check_prediction(self.network, prediction, flat)
        return prediction.view_as(h)
