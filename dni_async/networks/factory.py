"""Which SG network or auxiliary head suits which cut: the measured defaults, and how to build them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from dni_async.contract import wrong_value
from dni_async.errors import UserError
from dni_async.networks.auxiliary import AuxiliaryHead
from dni_async.networks.base import DNINetwork, NetworkSettings, check_prediction
from dni_async.networks.head import HeadSG
from dni_async.networks.registry import AUTO, automatic_kind, find_network
from dni_async.networks.settings import LocalConfig, SGConfig
from dni_async.optim import optimizer_factory
from dni_async.synthesis.pending import PendingPredictions
from dni_async.synthesis.scale import GradientScale
from dni_async.synthesis.synthesizer import Condition, Synthesizer

WIDE = 128
"""Above this width the linear SG network is of low rank: a full one would cost a layer and more."""


def resolve(
    config: SGConfig,
    shape: tuple[int, ...],
    stages: int,
    conditional: bool,
    classes: bool,
    batch_normalised: bool = False,
    values: int = 0,
) -> SGConfig:
    """The same settings with every None decided.

    stages: of the whole network. shape and what follows it: as in `automatic_kind`.
    Raises UserError if the kind or the rank that was asked for does not fit.
    """
    kind = config.kind
    if kind == AUTO:
        kind = automatic_kind(shape, conditional, classes, batch_normalised, values)
    network = find_network(kind).for_shape(shape)
    image = len(shape) == 3
    if network.feature_dim == 1 and not image:
        raise UserError(f"SG network {kind} needs activations (B, C, H, W), not {('B', *shape)}; use linear")
    if network.needs_sequences and len(shape) != 2:
        raise UserError(f"SG network {kind} needs activations (B, T, D), not {('B', *shape)}; use head")
    if network.needs_classes and not (conditional and classes):
        raise UserError(f"SG network {kind} needs class labels (rule cdni); use conv or linear")
    flat = _features(shape)
    if flat < network.least_features:
        raise UserError(
            f"SG network {kind} needs activations of at least {network.least_features} features, "
            f"not {flat}; use linear"
        )
    if network.uses_rank and (config.rank or 0) > flat:
        raise UserError(
            f"sg.rank is {config.rank}, and activations have {flat} features; use at most {flat}, "
            "or 0 for full rank"
        )
    replay = 2 if stages >= 3 and network.replays and not image else 0
    return replace(
        config,
        kind=kind,
        rank=config.rank if config.rank is not None else (64 if flat > WIDE else 0),
        hidden=config.hidden or network.default_hidden(_inner_shape(network, shape)),
        layers=config.layers or network.default_layers,
        lr=config.lr or network.default_lr,
        replay=replay if config.replay is None else config.replay,
    )


def measurable(config: SGConfig, shape: tuple[int, ...]) -> SGConfig:
    """The settings by which a network is measured at every layer's output, most of which are never cut.

    A rank or a kind that does not fit an output as narrow as this one refuses a run only where it is cut.
    """
    features, kind = _features(shape), config.kind
    if kind != AUTO:
        network = find_network(kind).for_shape(shape)
        if features < network.least_features or (network.needs_sequences and len(shape) != 2):
            kind = AUTO
    return replace(config, kind=kind, rank=min(config.rank, features) if config.rank else config.rank)


def _features(shape: tuple[int, ...]) -> int:
    """The features of activations of `shape`; those of an image are flattened."""
    return math.prod(shape) if len(shape) == 3 else shape[-1]


def build_network(config: SGConfig, shape: tuple[int, ...], label_size: int) -> DNINetwork:
    """The SG network of a resolved `config` for activations of `shape` (without the batch).

    Raises UserError if a user's class cannot be built so.
    """
    assert config.rank is not None and config.layers is not None, "resolve first"
    cls = find_network(config.kind).for_shape(shape)
    inner = _inner_shape(cls, shape)
    settings = NetworkSettings(
        hidden=config.hidden or 0, layers=config.layers, rank=config.rank, memory=config.memory
    )
    if label_size and "labels" not in inspect.signature(cls.forward).parameters:
        raise UserError(f"SG network {config.kind} has no labels in its forward; use rule dni")
    try:
        network = cls.build(inner, label_size, settings)
    except TypeError as error:
        raise UserError(
            f"SG network {config.kind} cannot be built ({error}); its constructor takes input_size, "
            "hidden_size, output_size and, if it sees labels, label_size"
        ) from error
    if not isinstance(network, DNINetwork):
        raise wrong_value(cls, "build", network, f"a {cls.__name__}")
    if not any(True for _ in network.parameters()):
        raise UserError(f"SG network {config.kind} has no parameters; it cannot learn")
    return network if inner == shape else Flattened(network)


def _inner_shape(network: type[DNINetwork], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a network works on: images are flattened for one that has no use for their shape."""
    return (math.prod(shape),) if len(shape) == 3 and network.feature_dim != 1 else shape


def build_synthesizer(
    config: SGConfig,
    shape: tuple[int, ...],
    *,
    label_size: int,
    condition: Condition | None,
    pending_capacity: int,
    valid: Condition | None = None,
    device: torch.device | None = None,
    seed: int = 0,
    guarded: bool = False,
    schedule: Callable[[int], float] | None = None,
) -> Synthesizer:
    """Return a synthesizer for a resolved `config`; the same seed makes the same initial network."""
    assert config.lr is not None and config.replay is not None, "resolve first"
    with _seeded(seed):
        network = build_network(config, shape, label_size if condition is not None else 0)
    network = network.to(device)
    return Synthesizer(
        network,
        optimizer_factory(config.optimizer, config.lr)(list(network.parameters())),
        PendingPredictions(pending_capacity),
        condition=condition,
        valid=valid,
        scale=GradientScale(config.units),
        replay=config.replay,
        replay_window=config.replay_window,
        seed=seed,
        guarded=guarded,
        schedule=schedule,
    )


def build_auxiliary(
    config: LocalConfig,
    shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    device: torch.device | None = None,
    seed: int = 0,
) -> tuple[AuxiliaryHead, Optimizer]:
    """Return the head from `shape` to `output_shape` (both without the batch), and its optimizer."""
    hidden = config.hidden or (HeadSG.default_hidden(shape) if len(shape) == 3 else 128)
    with _seeded(seed):
        head = AuxiliaryHead(shape, output_shape, hidden)
    head = head.to(device)
    return head, optimizer_factory(config.optimizer, config.lr)(list(head.parameters()))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator inside, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        yield


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


def label_size_of(condition: Condition, y: Tensor) -> int:
    """Return the number of columns that a condition makes of the labels y (B, ...)."""
    columns = condition(y)
    if columns.ndim < 2 or not columns.is_floating_point():
        raise UserError(
            f"condition(y) must give (B, C) floats, not {tuple(columns.shape)} of {columns.dtype}"
        )
    return columns.shape[-1]


def parameters_of(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())
