"""Which SG network or auxiliary head suits which cut: the measured defaults, and how to build them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim import Optimizer

from dni_async.errors import UserError
from dni_async.networks import AuxiliaryHead, ConvSG, DNINetwork, HeadSG, LeastSquaresSG, LinearSG, MlpSG
from dni_async.optim import optimizer_factory
from dni_async.synthesis.pending import PendingPredictions
from dni_async.synthesis.scale import UNITS, GradientScale
from dni_async.synthesis.synthesizer import Condition, Synthesizer

KINDS = ("auto", "linear", "least-squares", "mlp", "conv", "head")
WIDE = 128
"""Above this width the linear SG network is of low rank: a full one would cost a layer and more."""
MAX_HEAD = 32
"""Channels of the head: with twice 64 it would cost a 5x5 convolution of 64 filters and more."""


@dataclass(kw_only=True, slots=True)
class SGConfig:
    """The SG network of every cut. None means: chosen by the kind of layer and the number of stages."""

    kind: str = "auto"
    """auto, linear, least-squares (in closed form), mlp, conv or head. Auto: for (B, C, H, W) head
    (conv when unconditional), else linear; through time least-squares for states up to 256."""
    rank: int | None = None
    """Rank of the linear network, 0 for full. By default full up to width 128, 64 above."""
    hidden: int | None = None
    """Hidden units (mlp: width of h) or channels (conv: those of h, head: twice those, at most 32)."""
    layers: int | None = None
    """Hidden layers of mlp (1) or conv (2)."""
    memory: int | None = None
    """Rows over which the targets of least-squares fade; by default twice its features."""
    optimizer: str = "adam"
    """Any optimizer of torch.optim."""
    lr: float | None = None
    """Learning rate: 1e-3, and 3e-3 for the head."""
    replay: int | None = None
    """Extra SG steps per target, on replayed tuples: 2 for linear and mlp from 3 stages on, else 0."""
    replay_window: int = 16
    """How many (h, y, target) tuples are kept for replay."""
    units: str = "sample"
    """Gradient units the network works in: sample (times the batch size), rms (by running RMS) or none."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"unknown SG network ({self.kind}); use one of {', '.join(KINDS)}")
        if self.units not in UNITS:
            raise UserError(f"unknown gradient units ({self.units}); use one of {', '.join(UNITS)}")
        for name, value, low in (
            ("rank", self.rank, 0),
            ("hidden", self.hidden, 1),
            ("layers", self.layers, 1),
            ("replay", self.replay, 0),
            ("replay-window", self.replay_window, 1),
            ("memory", self.memory, 1),
        ):
            if value is not None and value < low:
                raise UserError(f"sg.{name} is {value}; it must be at least {low}")
        if self.lr is not None and self.lr <= 0:
            raise UserError(f"sg.lr is {self.lr}; it must be positive")


@dataclass(kw_only=True, slots=True)
class LocalConfig:
    """The auxiliary head of every stage but the last, under rule local."""

    hidden: int | None = None
    """Hidden units (128), or channels for (B, C, H, W) (twice those of h, at most 32)."""
    optimizer: str = "adam"
    """Any optimizer of torch.optim."""
    lr: float = 3e-3
    """Learning rate."""

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise UserError(f"local.hidden is {self.hidden}; it must be at least 1")
        if not 0 < self.lr < math.inf:
            raise UserError(f"local.lr is {self.lr}; it must be positive and finite")


def resolve(
    config: SGConfig, shape: tuple[int, ...], stages: int, conditional: bool, classes: bool
) -> SGConfig:
    """The same settings with every None decided for an interface of `shape` (without the batch).

    Raises UserError when the kind that was asked for does not fit the shape.
    """
    image = len(shape) == 3
    kind = config.kind
    if kind == "auto":
        kind = "linear" if not image else "head" if conditional and classes else "conv"
    if kind in ("conv", "head") and not image:
        raise UserError(f"SG network {kind} needs activations (B, C, H, W), not {('B', *shape)}; use linear")
    if kind == "head" and not (conditional and classes):
        raise UserError("SG network head needs class labels (rule cdni); use conv or linear")
    flat = int(torch.Size(shape).numel()) if image else shape[-1]
    tracks_alone = image or kind == "least-squares"
    return replace(
        config,
        kind=kind,
        rank=config.rank if config.rank is not None else (64 if flat > WIDE else 0),
        hidden=config.hidden
        or (head_channels(shape) if kind == "head" else shape[0] if kind == "conv" else flat),
        layers=config.layers or (2 if kind == "conv" else 1),
        lr=config.lr or (3e-3 if kind == "head" else 1e-3),
        replay=config.replay if config.replay is not None else (2 if stages >= 3 and not tracks_alone else 0),
    )


def head_channels(shape: tuple[int, ...]) -> int:
    """Channels that a head has on activations of `shape` (C, H, W) unless said otherwise."""
    return min(2 * shape[0], MAX_HEAD)


def build_network(config: SGConfig, shape: tuple[int, ...], label_size: int) -> DNINetwork:
    """The SG network for a resolved `config` at an interface of `shape` (without the batch)."""
    assert config.rank is not None and config.hidden is not None and config.layers is not None, (
        "resolve first"
    )
    if config.kind == "head":
        return HeadSG(shape[0], label_size, shape[1], config.hidden)
    if config.kind == "conv":
        return ConvSG(shape[0], config.hidden, shape[0], label_size, config.layers)
    width = int(torch.Size(shape).numel()) if len(shape) == 3 else shape[-1]
    if config.kind == "mlp":
        network: DNINetwork = MlpSG(width, config.hidden, width, label_size, config.layers)
    elif config.kind == "least-squares":
        network = LeastSquaresSG(width, width, label_size, config.memory)
    else:
        network = LinearSG(width, width, label_size, config.rank)
    return Flattened(network) if len(shape) == 3 else network


def build_synthesizer(
    config: SGConfig,
    shape: tuple[int, ...],
    *,
    label_size: int,
    condition: Condition | None,
    pending_capacity: int,
    device: torch.device | None = None,
    seed: int = 0,
    guarded: bool = False,
) -> Synthesizer:
    """A synthesizer by a resolved `config`; the same seed gives the same initial network."""
    assert config.lr is not None and config.replay is not None, "resolve first"
    with _seeded(seed):
        network = build_network(config, shape, label_size if condition is not None else 0)
    network = network.to(device)
    return Synthesizer(
        network,
        optimizer_factory(config.optimizer, config.lr)(list(network.parameters())),
        PendingPredictions(pending_capacity),
        condition=condition,
        scale=GradientScale(config.units),
        replay=config.replay,
        replay_window=config.replay_window,
        seed=seed,
        guarded=guarded,
    )


def build_auxiliary(
    config: LocalConfig,
    shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    device: torch.device | None = None,
    seed: int = 0,
) -> tuple[AuxiliaryHead, Optimizer]:
    """The head from an interface of `shape` to `output_shape` (both without the batch), and its optimizer."""
    hidden = config.hidden or (head_channels(shape) if len(shape) == 3 else 128)
    with _seeded(seed):
        head = AuxiliaryHead(shape, output_shape, hidden)
    head = head.to(device)
    return head, optimizer_factory(config.optimizer, config.lr)(list(head.parameters()))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initial weights by `seed` alone; the generator of the process goes on as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        yield


class Flattened(DNINetwork):
    """Lets a network for (B, D) work on (B, C, H, W)."""

    def __init__(self, network: DNINetwork) -> None:
        super().__init__(network.input_size, network.hidden_size, network.output_size)
        self.network = network

    def forward(
        self, input: torch.Tensor, hidden: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(gradient like `input`, hidden)."""
        gradient, hidden = self.network(input.flatten(1), hidden, labels)
        return gradient.view_as(input), hidden


def label_size_of(condition: Condition, y: torch.Tensor) -> int:
    """Columns of what a condition makes of the labels y (B, ...)."""
    columns = condition(y)
    if columns.ndim < 2 or not columns.is_floating_point():
        raise UserError(
            f"condition(y) must give (B, C) floats, not {tuple(columns.shape)} of {columns.dtype}"
        )
    return columns.shape[-1]


def parameters_of(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())
