"""Rules at the interfaces of the small pipeline of tests.support.stages, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn import functional as F

from dni_async.learning_rates import schedule_factor
from dni_async.networks.factory import build_auxiliary
from dni_async.networks.settings import LocalConfig
from dni_async.optim import Updater, optimizer_factory
from dni_async.rules import DelayedRule, DniRule, FrozenRule, LocalRule
from dni_async.rules.base import Rule
from dni_async.synthesis.scale import GradientScale
from tests.support.stages import CLASSES, WIDTH, accuracy, synthesizer

CUT = (1, 2)
BOUNDS = [(0, 1), (1, 2), (2, 4)]
"""The layers of every stage where the four layers are cut after 1 and 2."""


def scheduled(module: nn.Module) -> Updater:
    """Return SGD with momentum, a linear schedule and a clipped gradient."""
    make = optimizer_factory("sgd", 0.1, momentum=0.9)
    return Updater(make(list(module.parameters())), schedule_factor("linear", 20), clip_norm=0.5)


def local() -> LocalRule:
    """Return a local rule with a head of its own."""
    return LocalRule(*build_auxiliary(LocalConfig(), (WIDTH,), (CLASSES,)), F.cross_entropy, accuracy)


RULES: dict[str, Callable[[], Rule]] = {
    "cdni": lambda: DniRule(synthesizer()),
    "cdni, replay": lambda: DniRule(synthesizer(replay=2, scale=GradientScale("rms"))),
    "delayed": lambda: DelayedRule(3),
    "local": local,
    "frozen": FrozenRule,
}
