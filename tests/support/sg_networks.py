"""Every SG network, and what the tests do to all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.messages import TargetGradient
from dni_async.networks import (
    RNNDNI,
    Conv2dDNI,
    ConvSG,
    DNINetwork,
    FeatureHeadSG,
    HeadSG,
    LeastSquaresSG,
    LinearBatchNormDNI,
    LinearDNI,
    LinearSG,
    LinearSigmoidDNI,
    MlpSG,
    TokenHeadSG,
)
from dni_async.networks.flattened import Flattened
from dni_async.synthesis.pending import PendingPredictions
from dni_async.synthesis.synthesizer import Synthesizer

LABELS = 3


def _recurrent(kind: str) -> Callable[..., DNINetwork]:
    return lambda **settings: RNNDNI(**settings, kind=kind)


def _convolutional(padding: int | str) -> Callable[..., DNINetwork]:
    return lambda hidden_size, **settings: Conv2dDNI(
        hidden_size=1, convolutions=hidden_size, padding=padding, **settings
    )


OLD_NETWORKS: dict[str, tuple[Callable[..., DNINetwork], tuple[int, ...]]] = {
    "linear": (LinearDNI, (4,)),
    "linear over time": (LinearDNI, (3, 4)),
    "batch norm": (LinearBatchNormDNI, (4,)),
    "batch norm over time": (LinearBatchNormDNI, (3, 4)),
    "sigmoid": (LinearSigmoidDNI, (4,)),
    "lstm": (_recurrent("lstm"), (3, 4)),
    "gru": (_recurrent("gru"), (3, 4)),
    "rnn": (_recurrent("rnn"), (3, 4)),
    "gru of cells": (_recurrent("gru"), (4,)),
    "conv": (_convolutional(0), (4, 3, 2)),
    "conv same": (_convolutional("SAME"), (4, 3, 2)),
}
"""By name: the class, and the shape of an h it predicts for, without the batch."""

ALL_NETWORKS = OLD_NETWORKS | {
    "recipe linear": (lambda label_size, **_: LinearSG(4, 4, label_size), (4,)),
    "recipe low rank": (lambda label_size, **_: LinearSG(4, 4, label_size, rank=2), (3, 4)),
    "recipe least squares": (lambda label_size, **_: LeastSquaresSG(4, 4, label_size), (4,)),
    "recipe mlp": (lambda label_size, **_: MlpSG(4, 5, 4, label_size), (4,)),
    "recipe conv": (lambda label_size, **_: ConvSG(4, 3, 4, label_size), (4, 3, 2)),
    "recipe head": (lambda label_size, **_: HeadSG(4, label_size, 3), (4, 3, 2)),
    "recipe feature head": (lambda label_size, **_: FeatureHeadSG(4, label_size), (4,)),
    "recipe token head": (lambda label_size, **_: TokenHeadSG(4, label_size), (3, 4)),
    "recipe linear for images": (lambda label_size, **_: Flattened(LinearSG(24, 24, label_size)), (4, 3, 2)),
}
"""With those of the recipes, which have arguments of their own."""


def build(name: str, conditional: bool, hidden: int = 3) -> tuple[DNINetwork, tuple[int, ...]]:
    """A network of four features, and the shape of its h without the batch."""
    make, shape = ALL_NETWORKS[name]
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"input_size": 4, "hidden_size": hidden, "output_size": 4}
    return make(**sizes, label_size=LABELS if conditional else 0), shape


def fill(network: nn.Module, seed: int = 0) -> None:
    """Random weights in the output layer too, which starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise)


def labels_for(rows: int) -> Tensor:
    return F.one_hot(torch.arange(rows) % LABELS, LABELS).double()


def synthesizer(network: DNINetwork, lr: float = 1e-2, conditional: bool = False) -> Synthesizer:
    condition = (lambda y: F.one_hot(y, LABELS).float()) if conditional else None
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    return Synthesizer(network, optimizer, PendingPredictions(8), condition=condition)


def train(
    sg: Synthesizer, steps: int, h: Callable[[], Tensor], gradient: Callable[[Tensor, Tensor], Tensor]
) -> list[float]:
    """Relative errors of the predictions on fresh h, whose targets `gradient(h, y)` come two batches late."""
    errors, waiting = [], []
    for step in range(steps):
        batch = h()
        y = torch.randint(0, LABELS, (len(batch),))
        wanted = gradient(batch, y) / len(batch)
        errors.append(float((sg.predict(step, 0, batch, y) - wanted).norm() / wanted.norm()))
        waiting.append(TargetGradient(step, 0, wanted))
        if len(waiting) > 2:
            assert sg.take(waiting.pop(0)) is not None
    return errors
