"""How the weights of the layers are updated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import nn

from dni_async.errors import UserError
from dni_async.optim import SCHEDULES, OptimizerFactory, optimizer_factory
from launch.config.checks import one_of, positive
from launch.config.flat import Group


@dataclass(kw_only=True, slots=True)
class OptimizerConfig(Group):
    """How the weights of the layers are updated."""

    name: Annotated[str, tyro.conf.arg(name="optimizer")] = "adam"
    """Of the stages: any name of torch.optim."""
    lr: float = 1e-3
    """Learning rate of the stages."""
    optimizer_args: tuple[str, ...] = ()
    """More settings of the optimizer, such as momentum=0.9."""
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    """Learning rate over the run: constant, linear or cosine (both to zero), or step."""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Schedule step: shares of the run after which the rate is divided by ten."""
    clip_norm: float | None = None
    """Clip the gradient norm of each stage's own parameters to this."""

    def __post_init__(self) -> None:
        positive(lr=self.lr, clip_norm=self.clip_norm)
        one_of("schedule", self.schedule, SCHEDULES)
        if not all(0 < share < 1 for share in self.milestones):
            given = " ".join(map(str, self.milestones))
            raise UserError(f"milestones are {given}; each must be a share of the run, between 0 and 1")
        self._check_settings()

    def settings(self) -> dict[str, Any]:
        """Return `optimizer_args` as keyword arguments."""
        return {key: _value(text) for key, text in key_values("optimizer-args", self.optimizer_args)}

    def factory(self) -> OptimizerFactory:
        """Return a function of parameters that makes their optimizer."""
        return optimizer_factory(self.name, self.lr, **self.settings())

    def _check_settings(self) -> None:
        """Make an optimizer for a single weight if there are settings: torch checks values only then."""
        settings = self.settings()
        if "lr" in settings:
            raise UserError(f"optimizer-args has lr={settings['lr']}; give the learning rate with --lr")
        make = optimizer_factory(self.name, self.lr, **settings)
        if not settings:
            return  # the first optimizer of a process takes a second or more (torch._dynamo)
        try:
            make([nn.Parameter(torch.zeros(1, 1))])
        except (ValueError, TypeError, RuntimeError) as error:
            cause = str(error).splitlines()[0]
            raise UserError(
                f"optimizer {self.name} refuses its settings ({cause}); change --optimizer-args"
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
