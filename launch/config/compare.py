"""The settings of a comparison, and of each of its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dni_async.errors import UserError
from dni_async.rules.registry import RULES
from launch.config.engines import check_engines
from launch.config.train import JobConfig, TrainConfig
from launch.engines.registry import BASELINES, ENGINES, find_engine, is_engine_path
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
        if not self.stages:
            self.stages = 2
        check_engines(self.engines, (*BASELINES, *RULES), paths=True)
        if self.repeats < 1:
            raise UserError(f"repeats is {self.repeats}; it must be at least 1")
        if self.vary_seed and self.seed + self.repeats > 2**32:
            raise UserError(f"seed is {self.seed}; the last of {self.repeats} must be at most {2**32 - 1}")

    def job(self, engine: str, out: Path, repeat: int = 0) -> TrainConfig:
        """The configuration of one contestant in its run number `repeat`, counted from 0."""
        shared = {name: getattr(self, name) for name in JobConfig.__dataclass_fields__}
        shared["seed"] += repeat if self.vary_seed else 0
        if engine not in ENGINES and not is_engine_path(engine):
            return TrainConfig(**shared | {"rule": engine, "out": str(out)})
        own: dict[str, Any] = {"engine": engine, "out": str(out)}
        if find_engine(engine).processes == 1:
            own |= {"stages": 1, "threads": self.threads or 1}  # one device's worth
        if not find_engine(engine).cut:
            own |= {"cut": ""}
        return TrainConfig(**shared | own)
