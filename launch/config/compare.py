"""The settings of a comparison, and of each of its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dni_async.errors import UserError
from dni_async.plugins import is_path
from dni_async.rules.registry import RULES, find_rule, rule_label
from launch.config.checks import at_least, one_of
from launch.config.train import JobConfig, TrainConfig
from launch.engines.registry import BASELINES, ENGINES, engine_label, find_engine, is_engine_path
from launch.local.wan import Wire


@dataclass(kw_only=True, slots=True)
class CompareConfig(JobConfig):
    """Run several engines on one task, each in a job of its own, and set them side by side."""

    engines: tuple[str, ...] = ("backprop", "dni", "cdni")
    """Baselines: backprop, backprop-all, ddp, gpipe, 1f1b, copies, dni-local, cdni-local; and rules: dni,
    cdni, delayed, local, frozen, oracle, or your own as my_pkg.my_rule:MyRule. Speed-up is over
    backprop."""
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
        self.to(TrainConfig)  # what is wrong for every engine
        check_engines(self.engines, (*BASELINES, *RULES), paths=True)
        at_least(1, repeats=self.repeats)
        if self.runtime.encrypt:
            for engine in self.engines:
                self.job(engine, Path("out"))  # torch's own engines cannot
        if self.vary_seed and self.task.seed + self.repeats > 2**32:
            raise UserError(
                f"seed is {self.task.seed}; the last of {self.repeats} must be at most {2**32 - 1}"
            )

    def job(self, engine: str, out: Path, repeat: int = 0) -> TrainConfig:
        """Return the configuration of one contestant in its run number `repeat`, counted from 0."""
        own: dict[str, Any] = {"out": str(out), "seed": self.task.seed + (repeat if self.vary_seed else 0)}
        if engine not in ENGINES and not is_engine_path(engine):
            return self.to(TrainConfig, rule=engine, **own)
        if find_engine(engine).processes == 1:
            own |= {"stages": 1, "threads": self.runtime.threads or 1}  # one device's worth
        if not find_engine(engine).cut:
            own |= {"cut": ""}
        return self.to(TrainConfig, engine=engine, **own)

    def notes(self) -> list[str]:
        """Return what makes engines differ beyond how they train, one line each, for below the table."""
        cuts = [engine for engine in self.engines if engine not in ENGINES and not is_engine_path(engine)]
        whole = [engine for engine in self.engines if engine not in cuts]
        if self.optimizer.clip_norm is None or self.partition.stages == 1 or not (cuts and whole):
            return []
        clipped, each = (", ".join(map(contestant_label, names)) for names in (whole, cuts))
        return [
            f"clip-norm {self.optimizer.clip_norm:g} bounds the gradient of the whole network in {clipped}, "
            f"and that of each stage in {each}: these are different algorithms"
        ]


def contestant_label(name: str) -> str:
    """What tables and folders call an engine or a rule, which may be a dotted path."""
    return engine_label(rule_label(name))


def check_engines(engines: tuple[str, ...], known: tuple[str, ...], paths: bool = False) -> None:
    """Raises UserError unless there are some, each of them known and named once.

    paths: whether a rule or an engine may also be given as a dotted path.
    """
    if not engines:
        raise UserError("no engines given; name some, such as --engines backprop cdni")
    labels = [contestant_label(engine) for engine in engines]
    for engine, label in zip(engines, labels, strict=True):
        if paths and is_path(engine):
            find_rule(engine)
        elif paths and is_engine_path(engine):
            find_engine(engine)
        else:
            one_of("engine", engine, known)
        if labels.count(label) > 1:
            raise UserError(f"engine {label} is given twice; name it once")
