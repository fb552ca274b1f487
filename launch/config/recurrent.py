"""The settings of tasks over time, which train in one process: of one training, and of a series of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from tyro.conf import OmitArgPrefixes

from dni_async.errors import UserError
from dni_async.networks.settings import SGConfig
from dni_async.optim import optimizer_factory
from launch.config.checks import at_least
from launch.config.flat import FlatConfig
from launch.config.logging import LoggingConfig
from launch.config.optimizer import OptimizerConfig
from launch.config.runtime import DeviceConfig
from launch.config.task import OutputConfig, TaskConfig

TIME_RULES = ("bptt", "dni", "dni-aux", "dni-permuted")


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
    task: OmitArgPrefixes[TaskConfig] = field(default_factory=partial(TaskConfig, name="copy", batch_size=32))
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(
        default_factory=partial(OptimizerConfig, lr=3e-3, clip_norm=1.0)
    )
    runtime: OmitArgPrefixes[DeviceConfig] = field(default_factory=DeviceConfig)
    logging: OmitArgPrefixes[LoggingConfig] = field(default_factory=LoggingConfig)
    output: OmitArgPrefixes[OutputConfig] = field(default_factory=OutputConfig)
    sg: SGConfig = field(default_factory=SGConfig)
    """The SG network at the end of a window."""

    def __post_init__(self) -> None:
        at_least(0, patience=self.patience)
        optimizer_factory(self.sg.optimizer, 1.0)
        if self.sg.gate:
            raise UserError("sg.gate slows stages down, and a task over time has none; leave it out")
        if not self.state_bound > 0:  # nor nan
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
    overwrite: bool = False
    """Remove the earlier run in --out first. Without it, a folder that has one is refused."""

    def __post_init__(self) -> None:
        OverTimeConfig.__post_init__(self)
        self.logging.check(self.output.out)
        at_least(1, bptt=self.bptt)
        if self.rule not in TIME_RULES:
            raise UserError(f"unknown rule for a task over time ({self.rule}); use {', '.join(TIME_RULES)}")


@dataclass(kw_only=True, slots=True)
class WindowsConfig(OverTimeConfig):
    """Train one task over time with every rule, every window and several seeds, one run after the other."""

    rules: tuple[str, ...] = ("bptt", "dni")
    """Rules to compare: bptt, dni, dni-aux, dni-permuted."""
    windows: tuple[int, ...] = (4,)
    """Time steps of a window; every rule is run with each."""
    repeats: int = 3
    """Seeds, from `seed` on."""

    def __post_init__(self) -> None:
        OverTimeConfig.__post_init__(self)
        for name, given in (("rules", self.rules), ("windows", self.windows)):
            if not given or len(set(given)) < len(given):
                shown = " ".join(map(str, given)) or "empty"
                raise UserError(f"{name} is {shown}; name at least one, each once")
        at_least(1, repeats=self.repeats)
        self.jobs()  # bad rules and windows are refused before anything runs

    def jobs(self) -> list[SequenceConfig]:
        """Return the runs in their order: all rules and windows with the first seed, then with the next."""
        return [
            self.to(SequenceConfig, rule=rule, bptt=steps, seed=self.task.seed + repeat, quiet=True, out="")
            for repeat in range(self.repeats)
            for steps in self.windows
            for rule in self.rules
        ]
