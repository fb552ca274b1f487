"""The settings of a training job, and those that it shares with a comparison of engines."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from dni_async.errors import UserError
from dni_async.networks.settings import LocalConfig, SGConfig
from dni_async.optim import optimizer_factory
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.rules.registry import find_rule, rule_label, rules_with
from launch.config.checks import positive
from launch.config.data import DataConfig
from launch.config.delay import DelayConfig
from launch.config.flat import FlatConfig
from launch.config.logging import ProfilingConfig
from launch.config.optimizer import OptimizerConfig
from launch.config.partition import PartitionConfig
from launch.config.recovery import RecoveryConfig
from launch.config.runtime import RuntimeConfig
from launch.config.task import EvaluationConfig, OutputConfig, TaskConfig
from launch.engines.registry import BASELINES, ENGINES, engine_label, find_engine
from workers.transport.registry import check_transports


@dataclass(kw_only=True, slots=True)
class JobConfig(FlatConfig):
    """What a training job and a comparison share."""

    task: OmitArgPrefixes[TaskConfig] = field(default_factory=TaskConfig)
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    evaluation: OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    delay: OmitArgPrefixes[DelayConfig] = field(default_factory=DelayConfig)
    partition: OmitArgPrefixes[PartitionConfig] = field(default_factory=PartitionConfig)
    runtime: OmitArgPrefixes[RuntimeConfig] = field(default_factory=RuntimeConfig)
    logging: OmitArgPrefixes[ProfilingConfig] = field(default_factory=ProfilingConfig)
    output: OmitArgPrefixes[OutputConfig] = field(default_factory=OutputConfig)
    sg: SGConfig = field(default_factory=SGConfig)
    """The SG networks of rules dni and cdni."""
    local: LocalConfig = field(default_factory=LocalConfig)
    """The auxiliary heads of rule local."""

    def __post_init__(self) -> None:
        positive(**{"sg.lr": self.sg.lr})
        optimizer_factory(self.sg.optimizer, 1.0)
        optimizer_factory(self.local.optimizer, 1.0)


@dataclass(kw_only=True, slots=True)
class TrainConfig(JobConfig):
    """Train one task with one engine."""

    rule: str = "cdni"
    """How stages get their gradients: dni, cdni, delayed, local, frozen (a control), oracle (checks the
    pipeline), or your own as my_pkg.my_rule:MyRule."""
    engine: str = "decoupled"
    """decoupled (stages by --rule); in one process backprop, backprop-all (all cores), dni-local or
    cdni-local (every layer decoupled by the library's wrapper); ddp (data parallel); gpipe, 1f1b, zb
    (torch's pipelines); copies (a control: as many sequential trainings at once as there are stages);
    or your own module as my_pkg.my_engine."""
    recovery: OmitArgPrefixes[RecoveryConfig] = field(default_factory=RecoveryConfig)

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)
        find_rule(self.rule)
        engine = find_engine(self.engine)
        if self.recovery.on_nonfinite == "skip" and not self.capabilities.skips_nonfinite:
            raise UserError(
                f"on-nonfinite skip is for stages that learn, not for {self.engine_name}; leave it out"
            )
        if self.recovery.on_nonfinite == "skip" and self.optimizer.accumulate > 1:
            raise UserError(
                "on-nonfinite skip would take all batches of an update with the one that is skipped; leave "
                "out --accumulate, or stop"
            )
        if self.runtime.encrypt and not engine.uses_rule and engine.together:
            raise UserError(
                f"encrypt is for stages that learn by a rule, not for {self.engine_name}; leave it out"
            )
        if self.runtime.precision == "fp16" and not (
            engine.scales_loss and self.capabilities.scales_gradients
        ):
            raise UserError(f"precision fp16 scales gradients, and {self.engine_name} does not; use bf16")
        self.logging.check(self.output.out)
        self._check_compiler()
        self._check_supervision()
        self._check_checkpoints()

    def _check_compiler(self) -> None:
        engine = find_engine(self.engine)
        compiles = self.capabilities.compiles if engine.uses_rule else engine.compiles
        if self.runtime.compile and not compiles:
            able = [name for name in BASELINES if ENGINES[name].compiles]
            raise UserError(
                f"{self.engine_name} cannot be compiled; leave --compile out, or use "
                f"{', '.join([*rules_with('compiles'), *able])}"
            )

    def _check_supervision(self) -> None:
        if not self.recovery.supervise:
            return
        if not self.capabilities.supervised:
            learn = "stages that learn without waiting"
            raise UserError(f"supervise is for {learn}, not for {self.engine_name}; leave it out")
        if self.runtime.deterministic:
            raise UserError("supervise goes on with older weights, which is not deterministic; leave one out")
        trust = self.runtime.trust_network
        check_transports(self.runtime.transport, trust_network=trust, supervise=True)
        if self.runtime.compile:
            raise UserError(
                "supervise starts a stage again, and nobody waits for its compiler; leave one of them out"
            )
        if self.evaluation.patience:
            raise UserError("supervise starts a stage again without its best weights; leave out --patience")
        if not self.output.out:
            raise UserError("supervise needs the folder in which checkpoints are kept; give one with --out")
        if self.recovery.checkpoint_every is None:
            self.recovery.checkpoint_every = 0

    def _check_checkpoints(self) -> None:
        if self.recovery.checkpoint_every is not None:
            option = "checkpoint-every"
        elif self.recovery.resume or self.recovery.max_restarts:
            option = "resume" if self.recovery.resume else "max-restarts"
        else:
            return
        if not self.output.out:
            raise UserError(f"{option} needs the folder in which checkpoints are kept; give one with --out")
        if not self.capabilities.resumable:
            raise UserError(f"{option} is for stages that learn, not for {self.engine_name}; leave it out")
        if self.recovery.resume and self.recovery.checkpoint_every is None:
            self.recovery.checkpoint_every = 0  # what was resumed once can be resumed again

    @property
    def engine_name(self) -> str:
        """The name in tables: the rule of a decoupled run, else the engine."""
        uses_rule = find_engine(self.engine).uses_rule
        return rule_label(self.rule) if uses_rule else engine_label(self.engine)

    @property
    def capabilities(self) -> RuleCapabilities:
        """Of the rule of a decoupled run; of another engine, none."""
        uses_rule = find_engine(self.engine).uses_rule
        return find_rule(self.rule).capabilities if uses_rule else RuleCapabilities()
