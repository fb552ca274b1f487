"""The settings of a task over time, which trains in one process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tyro.conf import OmitArgPrefixes

from dni_async.errors import UserError
from dni_async.networks.settings import SGConfig
from dni_async.optim import optimizer_factory
from launch.config.checks import at_least
from launch.config.flat import FlatConfig
from launch.config.optimizer import OptimizerConfig
from launch.config.output import OutputConfig
from launch.config.runtime import DeviceConfig
from launch.config.task import TaskConfig

TIME_RULES = ("bptt", "dni", "dni-aux", "dni-permuted")


def _task() -> TaskConfig:
    return TaskConfig(name="copy", batch_size=32)


def _optimizer() -> OptimizerConfig:
    return OptimizerConfig(lr=3e-3, clip_norm=1.0)


@dataclass(kw_only=True, slots=True)
class OverTimeConfig(FlatConfig):
    """What all trainings of a task over time have; the tasks are copy, repeat-copy, adding, argmax, char-lm,
    word-lm, or your own as my_pkg.my_task:MyTask."""

    patience: int = 0
    """End after so many epochs without a better validation loss; 0: never."""
    state_bound: float = 20.0
    """The state carried to the next window is clamped to plus and minus this."""
    discount: float = 0.95
    """Factor on the SG network's targets."""
    task: OmitArgPrefixes[TaskConfig] = field(default_factory=_task)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=_optimizer)
    runtime: OmitArgPrefixes[DeviceConfig] = field(default_factory=DeviceConfig)
    output: OmitArgPrefixes[OutputConfig] = field(default_factory=OutputConfig)
    sg: SGConfig = field(default_factory=SGConfig)
    """The SG network at the end of a window."""

    def __post_init__(self) -> None:
        at_least(0, patience=self.patience)
        optimizer_factory(self.sg.optimizer, 1.0)
        if self.state_bound <= 0:
            raise UserError(f"state-bound is {self.state_bound}; it must be positive")
        if not 0 <= self.discount <= 1:
            raise UserError(f"discount is {self.discount}; it must be 0 to 1")


@dataclass(kw_only=True, slots=True)
class SequenceConfig(OverTimeConfig):
    """Train one task over time, in this process: copy, repeat-copy, adding, argmax, char-lm, word-lm, or your
    own as my_pkg.my_task:MyTask. (A language model in stages is char-lm-stack or word-lm-stack.)"""

    rule: Literal["bptt", "dni", "dni-aux", "dni-permuted"] = "dni"
    """What ends a window of truncated BPTT: bptt (nothing), dni (a synthetic gradient), dni-aux (with the
    paper's auxiliary task), dni-permuted (a control: predictions shuffled across the batch)."""
    bptt: int = 4
    """Time steps of a window, which is one update."""

    def __post_init__(self) -> None:
        OverTimeConfig.__post_init__(self)
        at_least(1, bptt=self.bptt)
        if self.rule not in TIME_RULES:
            raise UserError(f"unknown rule for a task over time ({self.rule}); use {', '.join(TIME_RULES)}")
