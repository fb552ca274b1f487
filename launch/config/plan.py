"""The settings of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from dni_async.errors import UserError
from launch.config.engines import check_engines
from launch.config.train import JobConfig
from launch.planning.predict import ENGINES as PLANNED


@dataclass(kw_only=True, slots=True)
class PlanConfig(JobConfig):
    """Predict throughput, idle time and memory of every engine for many numbers of stages."""

    epochs: int = 2
    """Of each run that --check makes."""
    engines: tuple[str, ...] = ("backprop", "ddp", "gpipe", "1f1b", "delayed", "local", "dni", "cdni")
    """Engines to predict."""
    stage_counts: tuple[int, ...] = ()
    """Numbers of stages to predict for; by default --stages, or 2, 4, 8 ... as far as there are layers."""
    repeat_layers: int = 0
    """Predict for a deeper network: the layers between first and last repeated until there are so many."""
    profile: str = ""
    """A profile.json that an earlier plan wrote; by default everything is measured anew."""
    check: bool = False
    """Run real jobs with 2 stages and emulated ones with 4 and 8, and show how far off the prediction is."""

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)
        check_engines(self.engines, PLANNED)
        if self.precision != "fp32":
            raise UserError(f"precision is {self.precision}; a plan is measured in fp32, leave it out")
        if self.patience:
            raise UserError(f"patience is {self.patience}; a plan trains nothing to its end, leave it out")
        if self.stages and self.stage_counts:
            raise UserError("both --stages and --stage-counts are given; leave one out")
        if self.stages:
            self.stage_counts = (self.stages,)
        for count in self.stage_counts:
            if count < 2:
                raise UserError(f"stage-counts has {count}; a plan needs at least 2 stages")
        if self.repeat_layers < 0:
            raise UserError(f"repeat-layers is {self.repeat_layers}; it must be at least 0")
        if self.cut:
            raise UserError(f"cut is {self.cut}; a plan finds the cut of each engine itself, leave --cut out")
        if "," in self.transport:
            raise UserError(f"transport is {self.transport}; a plan takes one for all links")

    def counts(self, layers: int) -> list[int]:
        """The numbers of stages to predict for, in a network of so many layers."""
        return list(self.stage_counts) or [n for n in (2**i for i in range(1, 11)) if n <= layers]
