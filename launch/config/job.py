"""The settings that a training job and a comparison of engines share."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from dni_async.networks.settings import LocalConfig, SGConfig
from dni_async.optim import optimizer_factory
from launch.config.checks import positive
from launch.config.flat import FlatConfig
from launch.config.optimizer import OptimizerConfig
from launch.config.output import OutputConfig
from launch.config.partition import PartitionConfig
from launch.config.runtime import RuntimeConfig
from launch.config.task import EvaluationConfig, TaskConfig


@dataclass(kw_only=True, slots=True)
class JobConfig(FlatConfig):
    """What a training job and a comparison share."""

    task: OmitArgPrefixes[TaskConfig] = field(default_factory=TaskConfig)
    evaluation: OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    partition: OmitArgPrefixes[PartitionConfig] = field(default_factory=PartitionConfig)
    runtime: OmitArgPrefixes[RuntimeConfig] = field(default_factory=RuntimeConfig)
    output: OmitArgPrefixes[OutputConfig] = field(default_factory=OutputConfig)
    sg: SGConfig = field(default_factory=SGConfig)
    """The SG networks of rules dni and cdni."""
    local: LocalConfig = field(default_factory=LocalConfig)
    """The auxiliary heads of rule local."""

    def __post_init__(self) -> None:
        positive(**{"sg.lr": self.sg.lr})
        optimizer_factory(self.sg.optimizer, 1.0)
        optimizer_factory(self.local.optimizer, 1.0)
