"""How the weights of the layers are updated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import nn

from dni_async.errors import UserError, cause_of
from dni_async.learning_rates import SCHEDULES
from dni_async.optim import OptimizerFactory, optimizer_factory
from launch.config.checks import at_least, one_of, positive
from launch.config.flat import Group


@dataclass(kw_only=True, slots=True)
class OptimizerConfig(Group):
    """How the weights of the layers are updated."""

    name: Annotated[str, tyro.conf.arg(name="optimizer")] = "adam"
    """Of the stages: any name of torch.optim; muon takes AdamW for what is no matrix."""
    lr: float = 1e-3
    """Learning rate of the stages."""
    optimizer_args: tuple[str, ...] = ()
    """More settings of the optimizer, such as momentum=0.9."""
    param_groups: tuple[str, ...] = ()
    """Settings of some parameters, such as '*.bias:weight_decay=0' or 'Embedding.*:lr=1e-4,muon=false'. A
    pattern stands for names by place (3.norm.bias), by type (LayerNorm.bias), or in a model that from_module
    has split (encoder.norm.bias); the first that fits holds."""
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    """Learning rate over the run: constant, linear or cosine (both to zero), or step."""
    warmup: float = 0.0
    """Share of the run in which the learning rate rises to --lr, before the schedule."""
    accumulate: int = 1
    """Batches whose mean gradient makes one update of the stages' weights."""
    ema: float | None = None
    """Evaluate, and leave in weights/, an exponential moving average of the weights with this decay, such as
    0.999 (at update n at most (1 + n) / (10 + n))."""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Schedule step: shares of the run after which the rate is divided by ten."""
    clip_norm: float | None = None
    """Clip the gradient norm to this: under a rule (dni, delayed, ...) that of each stage's own parameters,
    so that no stage waits; under the other engines that of the whole network, as usual."""

    def __post_init__(self) -> None:
        positive(lr=self.lr, clip_norm=self.clip_norm)
        one_of("schedule", self.schedule, SCHEDULES)
        if not all(0 < share < 1 for share in self.milestones):
            given = " ".join(map(str, self.milestones))
            raise UserError(f"milestones are {given}; each must be a share of the run, between 0 and 1")
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup is {self.warmup:g}; it must be a share of the run, from 0 to below 1")
        at_least(1, accumulate=self.accumulate)
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UserError(f"ema is {self.ema:g}; it must be a decay from 0 to below 1, such as 0.999")
        self._check_settings()

    def settings(self) -> dict[str, Any]:
        """Return `optimizer_args` as keyword arguments."""
        return {key: _value(text) for key, text in key_values("optimizer-args", self.optimizer_args)}

    def group_settings(self) -> dict[str, dict[str, Any]]:
        """Return `param_groups` as settings of the optimizer by pattern."""
        groups: dict[str, dict[str, Any]] = {}
        for text in self.param_groups:
            pattern, colon, pairs = text.rpartition(":")
            if not colon or not pattern or pattern in groups:
                raise UserError(f"--param-groups got {text}; write PATTERN:name=value, each pattern once")
            settings = key_values("param-groups", tuple(re.split(r",(?=[^,=]+=)", pairs)))
            groups[pattern] = {key: _value(value) for key, value in settings}
        return groups

    def factory(self) -> OptimizerFactory:
        """Return a function of parameters, or groups of them, that makes their optimizer."""
        return optimizer_factory(self.name, self.lr, **self.settings())

    def _check_settings(self) -> None:
        """Make an optimizer for a single weight with the settings of each group: torch checks values only
        then."""
        settings, groups = self.settings(), self.group_settings()
        if "lr" in settings:
            raise UserError(f"optimizer-args has lr={settings['lr']}; give the learning rate with --lr")
        self.factory()
        if not settings and not groups:
            return  # the first optimizer of a process takes a second or more (torch._dynamo)
        for group in ({}, *groups.values()):
            make = optimizer_factory(self.name, **{"lr": self.lr} | settings | group)
            try:
                make([nn.Parameter(torch.zeros(1, 1))])
            except (ValueError, TypeError, RuntimeError) as error:
                option = "--param-groups" if group else "--optimizer-args"
                raise UserError(
                    f"optimizer {self.name} refuses its settings ({cause_of(error)}); change {option}"
                ) from None


def key_values(option: str, pairs: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return ("momentum=0.9", ...) as [("momentum", "0.9"), ...]."""
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--{option} got {pair}; write name=value")
    return [(pair.split("=", 1)[0], pair.split("=", 1)[1]) for pair in pairs]


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "," in text:
        return tuple(_value(part) for part in text.split(","))
    try:
        return None if text.lower() == "none" else float(text) if set(text) & set(".eEn") else int(text)
    except ValueError:
        return text
