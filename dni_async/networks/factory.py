"""Which SG network or auxiliary head suits which cut: the measured defaults, and how to build them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dni_async.contract import wrong_value
from dni_async.errors import UserError
from dni_async.networks.auxiliary import AuxiliaryHead
from dni_async.networks.base import DNINetwork, NetworkSettings
from dni_async.networks.flattened import Flattened
from dni_async.networks.head import HeadSG
from dni_async.networks.registry import AUTO, automatic_kind, find_network
from dni_async.networks.settings import LocalConfig, SGConfig
from dni_async.optim import optimizer_factory
from dni_async.synthesis.pending import PendingPredictions
from dni_async.synthesis.scale import GradientScale
from dni_async.synthesis.synthesizer import Condition, Synthesizer
from dni_async.trees import map_tensors


def resolve(
    config: SGConfig,
    shape: tuple[int, ...],
    stages: int,
    conditional: bool,
    classes: bool,
    batch_normalised: bool = False,
    values: int = 0,
    class_count: int = 0,
) -> SGConfig:
    """The same settings with every None decided, but that of `match`.

    stages: of the whole network; class_count: how many classes there are, 0 where that is not known; the
    others: as in `automatic_kind`.
    Raises UserError if the kind or a size that was asked for does not fit.
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
    if class_count and (config.negatives or 0) >= class_count:
        raise UserError(
            f"sg.negatives is {config.negatives}, and there are {class_count} classes; use fewer, "
            "or 0 for all of them"
        )
    if config.match == 0 and not network.learns_when_predicting:
        raise UserError(
            f"sg.match is 0, and SG network {kind} learns from targets alone; use a head, or a share above 0"
        )
    replay = 2 if stages >= 3 and network.replays and not image else 0
    return replace(
        config,
        kind=kind,
        rank=network.default_rank(flat) if config.rank is None else config.rank,
        negatives=network.default_negatives(class_count) if config.negatives is None else config.negatives,
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
        hidden=config.hidden or 0,
        layers=config.layers,
        rank=config.rank,
        negatives=config.negatives or 0,
        memory=config.memory,
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
    if inner != shape:
        network = Flattened(network)
    if config.match is not None:
        network.learned_share = config.match
    return network


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


def label_size_of(condition: Condition, y: Tensor) -> int:
    """Return the number of columns that a condition makes of the labels y (B, ...)."""
    columns = condition(map_tensors(lambda labels: labels[:1], y))  # one-hot, a vocabulary is large
    if columns.ndim < 2 or not columns.is_floating_point():
        raise UserError(
            f"condition(y) must give (B, C) floats, not {tuple(columns.shape)} of {columns.dtype}"
        )
    return columns.shape[-1]


def parameters_of(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())
