"""Everything that can be set for a job, checked when it is set."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dni_async.errors import UserError
from dni_async.networks.settings import LocalConfig, SGConfig
from dni_async.nonfinite import POLICIES
from dni_async.optim import SCHEDULES, optimizer_factory
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.rules.registry import find_rule, rule_label, rules_with
from launch.engines.registry import BASELINES, ENGINES, engine_label, find_engine
from workers.runtime.execution import PRECISIONS
from workers.transport.base import MAX_CAPACITY
from workers.transport.registry import check_transports


@dataclass(kw_only=True, slots=True)
class JobConfig:
    """What all engines share: task, data, optimizer, stages, processes."""

    task: str = "mnist-fcn"
    """mnist-fcn, mnist-cnn, mnist-residual, digits-fcn, cifar-cnn, char-lm-stack, word-lm-stack,
    two-timescale, or your own as my_pkg.my_task:MyTask."""
    task_args: tuple[str, ...] = ()
    """The task's own settings, such as width=1024 depth=6."""
    data_root: str = ""
    """Folder with the data sets; by default the environment's DNI_DATA, then a cache folder."""
    epochs: int = 5
    """Times through the training set."""
    until: float | None = None
    """End training at this accuracy of an evaluation, such as 0.97; `epochs` stays the limit."""
    evaluations: int = 1
    """Evaluations on the whole test set per epoch, equally spaced."""
    patience: int = 0
    """End after so many epochs without a better validation loss; 0: never. Evaluations are then on the
    validation set, and the best weights are kept and tested at the end."""
    batch_size: int = 256
    """Samples per update."""
    seed: int = 0
    """Of initial weights and data order."""
    stages: int = 0
    """Processes to start on this machine; 0: as many as torchrun started, or 1 (in comparisons 2)."""
    cut: str = ""
    """First layer of every stage but the first, such as 2,4; by default cut by measured cost
    (with --deterministic and on emulated devices by FLOPs)."""
    optimizer: str = "adam"
    """Of the stages: any name of torch.optim."""
    lr: float = 1e-3
    """Learning rate of the stages."""
    optimizer_args: tuple[str, ...] = ()
    """More settings of the optimizer, such as momentum=0.9."""
    schedule: str = "constant"
    """Learning rate over the run: constant, linear or cosine (both to zero), or step."""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Schedule step: shares of the run after which the rate is divided by ten."""
    clip_norm: float | None = None
    """Clip the gradient norm of each stage's own parameters to this."""
    sg: SGConfig = field(default_factory=SGConfig)
    """The SG networks of rules dni and cdni."""
    local: LocalConfig = field(default_factory=LocalConfig)
    """The auxiliary heads of rule local."""
    micro_batches: int = 0
    """Of gpipe and 1f1b, per batch; 0 takes the fastest of several counts (with `deterministic` the most)."""
    in_flight: int = 4
    """Batches that may lie between two neighbouring stages."""
    target_every: int = 1
    """One batch in so many sends true gradients upstream, under rules dni and cdni; the others save the stage
    below a product and the SG network an update."""
    stash: int | None = None
    """Batches that may wait in a stage for their gradient, under rule delayed; by default the stages from
    it to the loss, itself included."""
    deterministic: bool = False
    """Lock-step delivery: the same command gives the same weights, bit for bit (costs speed)."""
    transport: str = "auto"
    """auto, shm, tcp, dist, rpc or the dotted path of your own; several, one per link, with commas. Auto: shm
    within a host, else dist."""
    trust_network: bool = False
    """Allow --transport rpc, by which anybody who reaches a rank's port can run code in it."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int = 1
    """Threads per process; 0 takes its share of the cores. In comparisons backprop has those of one stage."""
    precision: str = "fp32"
    """fp32 or bf16: layers and loss under torch.autocast; weights, optimizer and SG networks stay in fp32."""
    compile: bool = False
    """Run layers through torch.compile, before the clock starts: half a minute and more for every process."""
    emulate_gflops: float | None = None
    """Emulate devices of so many GFLOP/s: faster compute sleeps; learning and messages stay real."""
    timeout: float = 60.0
    """Seconds that any wait may last."""
    port: int = 0
    """Rendezvous port of a job started here (not by torchrun); 0 finds a free one."""
    out: str = ""
    """Folder for results; by default nothing is written."""
    quiet: bool = False
    """Show no progress and no table."""

    def __post_init__(self) -> None:
        for name, value, low in (
            ("epochs", self.epochs, 1),
            ("stash", 1 if self.stash is None else self.stash, 1),
            ("evaluations", self.evaluations, 1),
            ("patience", self.patience, 0),
            ("batch-size", self.batch_size, 1),
            ("stages", self.stages, 0),
            ("in-flight", self.in_flight, 1),
            ("target-every", self.target_every, 1),
            ("micro-batches", self.micro_batches, 0),
            ("threads", self.threads, 0),
        ):
            if value < low:
                raise UserError(f"{name} is {value}; it must be at least {low}")
        for name, number in (
            ("lr", self.lr),
            ("timeout", self.timeout),
            ("clip-norm", self.clip_norm),
            ("emulate-gflops", self.emulate_gflops),
        ):
            if number is not None and not 0 < number < math.inf:
                raise UserError(f"{name} is {number}; it must be positive and finite")
        if self.until is not None and not 0 < self.until <= 1:
            raise UserError(
                f"until is {self.until}; it must be a test accuracy above 0 and at most 1, such as 0.97"
            )
        if (
            not 0 <= self.seed < 2**32
        ):  # the generators take 64 bits, and epochs and stages get seeds of their own
            raise UserError(f"seed is {self.seed}; it must be 0 to {2**32 - 1}")
        if not 0 <= self.port < 65536:
            raise UserError(f"port is {self.port}; it must be 0 to 65535")
        one_of("schedule", self.schedule, SCHEDULES)
        if not all(0 < share < 1 for share in self.milestones):
            given = " ".join(map(str, self.milestones))
            raise UserError(f"milestones are {given}; each must be a share of the run, between 0 and 1")
        one_of("device", self.device, ("cpu", "cuda"))
        one_of("precision", self.precision, PRECISIONS)
        if self.emulate_gflops and self.device != "cpu":
            raise UserError(f"device {self.device} cannot emulate others; use --device cpu")
        if self.emulate_gflops and self.compile:
            raise UserError("an emulated device is no faster with --compile; leave it out")
        check_transports(self.transport, trust_network=self.trust_network)
        if self.in_flight > MAX_CAPACITY:
            raise UserError(f"in-flight is {self.in_flight}; it must be at most {MAX_CAPACITY}")
        self.cut_layers()
        _check_optimizer(self.optimizer, self.lr, self.optimizer_settings())
        optimizer_factory(self.sg.optimizer, 1.0)
        optimizer_factory(self.local.optimizer, 1.0)

    def cut_layers(self) -> list[int] | None:
        """The cut as numbers; None when it is to be found."""
        if not self.cut:
            return None
        try:
            cut = [int(part) for part in self.cut.split(",")]
        except ValueError:
            raise UserError(f"cut is {self.cut}; write layer numbers with commas, such as 2,4") from None
        if sorted(set(cut)) != cut or cut[0] < 1:
            raise UserError(f"cut is {self.cut}; layer numbers must increase and start at 1 or more")
        return cut

    def optimizer_settings(self) -> dict[str, Any]:
        """`optimizer_args` as keyword arguments."""
        return {key: _value(text) for key, text in key_values("optimizer-args", self.optimizer_args)}

    def stash_of(self, index: int, stages: int) -> int:
        """Batches that may wait in stage `index` of so many, under rule delayed."""
        return self.stash or stages - index

    def data_folder(self) -> Path | None:
        """Where the user keeps data sets."""
        root = self.data_root or os.environ.get("DNI_DATA", "")
        return Path(root) if root else None


@dataclass(kw_only=True, slots=True)
class TrainConfig(JobConfig):
    """Train one task with one engine."""

    rule: str = "cdni"
    """How stages get their gradients: dni, cdni, delayed, local, frozen (a control), oracle (checks the
    pipeline), or your own as my_pkg.my_rule:MyRule."""
    engine: str = "decoupled"
    """decoupled (stages by --rule); in one process backprop, backprop-all (all cores), dni-local or
    cdni-local (every layer decoupled by the library's wrapper); ddp (data parallel); gpipe, 1f1b (torch's
    pipelines); copies (a control: as many sequential trainings at once as there are stages);
    or your own module as my_pkg.my_engine."""
    minutes: float | None = None
    """End training after so many, wherever the epoch stands; baselines end at the next evaluation."""
    on_nonfinite: str = "stop"
    """What to do when an activation, a gradient or a loss is NaN or infinite: stop, or skip (no update for
    that batch, and it is counted)."""
    checkpoint_every: int | None = None
    """Keep checkpoints in --out, at the end of every epoch and every so many steps; 0: of epochs only."""
    supervise: bool = False
    """Start a stage again when its process dies, from its last checkpoint (kept in --out at the end of every
    epoch if --checkpoint-every does not say more); the others go on meanwhile. On one host."""
    stage_restarts: int = 3
    """How often --supervise starts each stage again."""
    resume: bool = False
    """Go on from the newest checkpoint in --out that is whole; from the beginning when there is none yet."""
    max_restarts: int = 0
    """How often a job started here begins anew when a process of it dies, each time from the newest
    checkpoint in --out (kept at least at the end of every epoch). Under torchrun give it to torchrun."""

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)
        find_rule(self.rule)
        engine = find_engine(self.engine)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UserError(f"minutes is {self.minutes}; it must be positive and finite")
        one_of("on-nonfinite", self.on_nonfinite, POLICIES)
        if self.on_nonfinite == "skip" and not self.capabilities.skips_nonfinite:
            raise UserError(
                f"on-nonfinite skip is for stages that learn, not for {self.engine_name}; leave it out"
            )
        compiles = self.capabilities.compiles if engine.uses_rule else engine.compiles
        if self.compile and not compiles:
            able = [name for name in BASELINES if ENGINES[name].compiles]
            raise UserError(
                f"{self.engine_name} cannot be compiled; leave --compile out, or use "
                f"{', '.join([*rules_with('compiles'), *able])}"
            )
        self._check_supervision()
        self._check_checkpoints()

    def _check_supervision(self) -> None:
        if self.stage_restarts < 0:
            raise UserError(f"stage-restarts is {self.stage_restarts}; it must be at least 0")
        if not self.supervise:
            return
        if not self.capabilities.supervised:
            learn = "stages that learn without waiting"
            raise UserError(f"supervise is for {learn}, not for {self.engine_name}; leave it out")
        if self.deterministic:
            raise UserError("supervise goes on with older weights, which is not deterministic; leave one out")
        check_transports(self.transport, trust_network=self.trust_network, supervise=True)
        if self.compile:
            raise UserError(
                "supervise starts a stage again, and nobody waits for its compiler; leave one of them out"
            )
        if self.patience:
            raise UserError("supervise starts a stage again without its best weights; leave out --patience")
        if not self.out:
            raise UserError("supervise needs the folder in which checkpoints are kept; give one with --out")
        if self.checkpoint_every is None:
            self.checkpoint_every = 0

    def _check_checkpoints(self) -> None:
        for name, value in (("checkpoint-every", self.checkpoint_every), ("max-restarts", self.max_restarts)):
            if value is not None and value < 0:
                raise UserError(f"{name} is {value}; it must be at least 0")
        if self.checkpoint_every is not None:
            option = "checkpoint-every"
        elif self.resume or self.max_restarts:
            option = "resume" if self.resume else "max-restarts"
        else:
            return
        if not self.out:
            raise UserError(f"{option} needs the folder in which checkpoints are kept; give one with --out")
        if not self.capabilities.resumable:
            raise UserError(f"{option} is for stages that learn, not for {self.engine_name}; leave it out")

    @property
    def engine_name(self) -> str:
        """What tables call it: the rule of a decoupled run, else the engine."""
        uses_rule = find_engine(self.engine).uses_rule
        return rule_label(self.rule) if uses_rule else engine_label(self.engine)

    @property
    def capabilities(self) -> RuleCapabilities:
        """Of the rule of a decoupled run; of another engine, none."""
        uses_rule = find_engine(self.engine).uses_rule
        return find_rule(self.rule).capabilities if uses_rule else RuleCapabilities()


def key_values(option: str, pairs: tuple[str, ...]) -> list[tuple[str, str]]:
    """("momentum=0.9", ...) as [("momentum", "0.9"), ...]."""
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


def _check_optimizer(name: str, lr: float, settings: dict[str, Any]) -> None:
    """Make one for a single weight if there are settings: torch looks at their values only then."""
    make = optimizer_factory(name, lr, **settings)
    if not settings:
        return  # the first optimizer of a process takes a second or more (torch._dynamo)
    try:
        make([nn.Parameter(torch.zeros(1, 1))])
    except (ValueError, TypeError, RuntimeError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"optimizer {name} refuses its settings ({cause}); change --optimizer-args") from None


def one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    """Raises UserError unless `value` is one of those that are `known`."""
    if value not in known:
        raise UserError(f"unknown {what} ({value}); use one of {', '.join(known)}")
