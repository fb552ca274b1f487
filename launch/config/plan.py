"""The settings of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from tyro.conf import OmitArgPrefixes

from dni_async.errors import UserError
from dni_async.networks.settings import LocalConfig, SGConfig
from launch.config.checks import at_least
from launch.config.compare import check_engines
from launch.config.data import DataConfig
from launch.config.flat import FlatConfig
from launch.config.optimizer import OptimizerConfig
from launch.config.partition import PipelineConfig
from launch.config.runtime import LinkedConfig
from launch.config.task import OutputConfig, TaskConfig
from launch.config.train import TrainConfig
from launch.local.wan import Wire
from launch.planning.predict import ENGINES as PLANNED


@dataclass(kw_only=True, slots=True)
class PlanConfig(FlatConfig):
    """Predict throughput, idle time and memory of every engine for many numbers of stages; `--epochs` are
    those of each run that --check makes."""

    engines: tuple[str, ...] = ("backprop", "ddp", "gpipe", "1f1b", "zb", "delayed", "local", "dni", "cdni")
    """Engines to predict."""
    stages: int = 0
    """One number of stages to predict for."""
    stage_counts: tuple[int, ...] = ()
    """Numbers of stages to predict for; by default --stages, or 2, 4, 8 ... as far as there are layers."""
    repeat_layers: int = 0
    """Predict for a deeper network: the layers between first and last repeated until there are so many."""
    profile: str = ""
    """A profile.json that an earlier plan wrote; by default everything is measured."""
    wan: str = ""
    """Predict for hosts that are joined by a wire of LATENCY_MS,MBIT, such as 25,1000: the latency is one
    way, the rate that of each host. With --check the jobs run on emulated hosts, which needs root."""
    check: bool = False
    """Run real jobs with 2 stages and, without --wan, emulated ones with 4 and 8, and show how far off the
    prediction is."""
    task: OmitArgPrefixes[TaskConfig] = field(default_factory=partial(TaskConfig, epochs=2))
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    partition: OmitArgPrefixes[PipelineConfig] = field(default_factory=PipelineConfig)
    runtime: OmitArgPrefixes[LinkedConfig] = field(default_factory=LinkedConfig)
    output: OmitArgPrefixes[OutputConfig] = field(default_factory=OutputConfig)
    sg: SGConfig = field(default_factory=SGConfig)
    """The SG networks of rules dni and cdni."""
    local: LocalConfig = field(default_factory=LocalConfig)
    """The auxiliary heads of rule local."""

    def __post_init__(self) -> None:
        if self.wan:
            Wire.parse(self.wan)
            if self.runtime.transport == "auto":
                self.runtime.transport = "tcp"
        self.to(TrainConfig, stages=0, profile="")  # what is wrong for every engine
        check_engines(self.engines, PLANNED)
        at_least(0, stages=self.stages, repeat_layers=self.repeat_layers)
        if self.stages and self.stage_counts:
            raise UserError("both --stages and --stage-counts are given; leave one out")
        for count in self.counts(0):
            if count < 2:
                raise UserError(f"stage-counts has {count}; a plan needs at least 2 stages")
        if "," in self.runtime.transport:
            raise UserError(f"transport is {self.runtime.transport}; a plan takes one for all links")

    @property
    def wire(self) -> Wire | None:
        """What joins the hosts; None within one host."""
        return Wire.parse(self.wan) if self.wan else None

    def counts(self, layers: int) -> list[int]:
        """Return the numbers of stages to predict for, in a network of so many layers."""
        given = (self.stages,) if self.stages else self.stage_counts
        return list(given) or [n for n in (2**i for i in range(1, 11)) if n <= layers]
