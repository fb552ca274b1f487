"""The settings of a comparison, and of each of its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dni_async.errors import UserError
from dni_async.plugins import is_path
from dni_async.rules.registry import RULES, find_rule
from launch.config.checks import at_least, one_of
from launch.config.train import JobConfig, TrainConfig
from launch.config.variant import Variant, check_labels, contestant_label
from launch.engines.registry import BASELINES, ENGINES, find_engine, is_engine_path
from launch.local.wan import Wire

DEFAULT_ENGINES: tuple[str, ...] = ("backprop", "dni", "cdni")


@dataclass(kw_only=True, slots=True)
class CompareConfig(JobConfig):
    """Run several engines on one task, each in a job of its own, and set them side by side."""

    engines: tuple[str, ...] = DEFAULT_ENGINES
    """Baselines: backprop, backprop-all, ddp, gpipe, 1f1b, zb, copies, dni-local, cdni-local; and rules: dni,
    cdni, delayed, local, frozen, oracle, or your own as my_pkg.my_rule:MyRule. Speed-up is over
    backprop."""
    variants: tuple[str, ...] = ()
    """Instead of engines: engines with settings of their own, each in quotes, such as 'cdni target-every=4
    lr=2e-3' '1f1b micro-batches=8'; the other settings are those of all."""
    repeats: int = 1
    """Runs of each engine, in turn (A B A B); the table gives medians."""
    vary_seed: bool = False
    """Give each repeat the next seed, from `seed` on, instead of the same."""
    wan: str = ""
    """Emulate a host for each stage, joined by a wire of LATENCY_MS,MBIT, such as 25,1000: the latency is one
    way, the rate that of each host. Needs root."""

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)
        if self.wan:
            Wire.parse(self.wan)
        if not self.partition.stages:
            self.partition.stages = 2
        self.to(TrainConfig, out=self.output.out or "out")  # what is wrong for every engine
        if self.variants and self.engines != DEFAULT_ENGINES:
            raise UserError("engines and variants are both given; name the engines among the variants")
        check_engines(self.engines, (*BASELINES, *RULES), paths=True)
        for variant in self.contenders():
            check_engine(variant.engine, (*BASELINES, *RULES), paths=True)
        check_labels([variant.label for variant in self.contenders()])
        at_least(1, repeats=self.repeats)
        if self.runtime.encrypt:
            for engine in {variant.engine for variant in self.contenders()}:
                self.job(engine, Path("out"))  # torch's own engines cannot
        if self.vary_seed and self.task.seed + self.repeats > 2**32:
            raise UserError(
                f"seed is {self.task.seed}; the last of {self.repeats} must be at most {2**32 - 1}"
            )

    def contenders(self) -> list[Variant]:
        """Return what competes: the variants, or the engines without settings of their own."""
        if self.variants:
            return [Variant.parse(text) for text in self.variants]
        return [Variant(engine, {}) for engine in self.engines]

    def job(self, engine: str, out: Path, repeat: int = 0) -> TrainConfig:
        """Return the configuration of one contestant in its run number `repeat`, counted from 0."""
        own: dict[str, Any] = {
            "out": str(out),
            "report": False,
            "seed": self.task.seed + (repeat if self.vary_seed else 0),
        }
        if engine not in ENGINES and not is_engine_path(engine):
            return self.to(TrainConfig, rule=engine, **own)
        if find_engine(engine).processes == 1:
            own |= {"stages": 1, "threads": self.runtime.threads or 1}  # one device's worth
        if not find_engine(engine).cut:
            own |= {"cut": ""}
        return self.to(TrainConfig, engine=engine, **own)

    def notes(self) -> list[str]:
        """Return what makes engines differ beyond how they train, one line each, for below the table."""
        cuts = [v for v in self.contenders() if v.engine not in ENGINES and not is_engine_path(v.engine)]
        whole = [variant for variant in self.contenders() if variant not in cuts]
        if self.optimizer.clip_norm is None or self.partition.stages == 1 or not (cuts and whole):
            return []
        clipped, each = (", ".join(variant.label for variant in some) for some in (whole, cuts))
        return [
            f"clip-norm {self.optimizer.clip_norm:g} bounds the gradient of the whole network in {clipped}, "
            f"and that of each stage in {each}: these are different algorithms"
        ]


def check_engines(engines: tuple[str, ...], known: tuple[str, ...], paths: bool = False) -> None:
    """Raise UserError unless there are some, each of them known and named once.

    paths: whether a rule or an engine may also be given as a dotted path.
    """
    if not engines:
        raise UserError("no engines given; name some, such as --engines backprop cdni")
    for engine in engines:
        check_engine(engine, known, paths)
    check_labels([contestant_label(engine) for engine in engines])


def check_engine(engine: str, known: tuple[str, ...], paths: bool = False) -> None:
    """Raise UserError unless the engine is known; `paths` as in `check_engines`."""
    if paths and is_path(engine):
        find_rule(engine)
    elif paths and is_engine_path(engine):
        find_engine(engine)
    else:
        one_of("engine", engine, known)
