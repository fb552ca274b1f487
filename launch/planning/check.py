"""Checks of a plan: real jobs with 2 stages and emulated ones with 4 and 8, to set beside the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from dni_async.errors import UserError
from launch.config.compare import CompareConfig
from launch.config.plan import PlanConfig
from launch.local.comparison import run_engine
from launch.local.wan import far_hosts
from launch.planning.predict import Planner, Prediction
from launch.planning.profile import Profile
from launch.report.files import prepare_out
from tasks.base import Task
from workers.failure.rank_runner import RankRunner

REAL, EMULATED = (2,), (4, 8)
"""Numbers of stages."""
SLOWDOWN = 16
"""An emulated device is so many times slower than a core here, so that eight of them fit on two cores."""


@dataclass(slots=True, kw_only=True)
class Check:
    """One engine, predicted and measured, in samples/s."""

    engine: str
    stages: int
    emulated: bool
    predicted: float | None
    measured: float | None
    reason: str = ""
    """Why a number is missing."""
    status: int = 0
    """Exit status of a run that failed."""

    @property
    def error(self) -> float | None:
        """Error of the prediction, as a share of what was measured."""
        return self.predicted / self.measured - 1 if self.predicted and self.measured else None


def run_checks(
    config: PlanConfig, task: Task, profile: Profile, out: Path, runner: RankRunner
) -> list[Check]:
    """Run every engine of the plan, one after the other, with the cut that was predicted for it.

    A network with too few layers for a number of stages is not run with it. On emulated hosts real jobs run,
    on devices as they are.
    """
    layers = len(profile.layers)
    if layers < REAL[0]:
        raise UserError(f"--check runs {REAL[0]} stages, and the network has {layers} layers")
    if profile.emulated:
        return _run(config, task, profile, [n for n in REAL + EMULATED if n <= layers], out, runner)
    checks = _run(config, task, profile, REAL, out, runner)
    counts = [n for n in EMULATED if n <= layers and not config.wire]
    if counts:
        config, profile = _emulated(config, task, profile)
        checks += _run(config, task, profile, counts, out, runner)
    return checks


def _emulated(config: PlanConfig, task: Task, profile: Profile) -> tuple[PlanConfig, Profile]:
    """Return settings and profile of devices so slow that this machine keeps up with eight of them."""
    from launch.planning.measure import gflop_per_batch, measure

    speed = gflop_per_batch(config, task) / Planner(profile, config.partition).backprop().period
    config = config.changed(emulate_gflops=float(f"{speed / SLOWDOWN:.2g}"), stages=0, stage_counts=())
    return config, measure(config, task)


def _run(
    config: PlanConfig, task: Task, profile: Profile, counts: Sequence[int], out: Path, runner: RankRunner
) -> list[Check]:
    planner = Planner(profile, config.partition, config.wire)
    wanted = [("backprop", 1)] if "backprop" in config.engines else []
    wanted += [(engine, n) for n in counts for engine in config.engines if engine != "backprop"]
    checks = []
    for engine, stages in wanted:
        runner.describe_position = lambda engine=engine: f"while {engine} was checked"  # type: ignore[misc]
        predicted = planner.predict(engine, stages)
        folder = out / (f"emulated-{stages}" if profile.emulated else str(stages))
        checks.append(_check(config, task, predicted, profile.emulated, folder))
    return checks


def _check(config: PlanConfig, task: Task, predicted: Prediction, emulated: bool, out: Path) -> Check:
    check = Check(
        engine=predicted.engine,
        stages=predicted.stages,
        emulated=emulated,
        predicted=predicted.samples_per_s,
        measured=None,
        reason=predicted.error or "",
    )
    if predicted.error:
        return check
    try:
        with far_hosts(predicted.stages, config.wire) if config.wire else nullcontext() as hosts:
            run = run_engine(_job(config, predicted), task, predicted.engine, prepare_out(out), 0, hosts)
    except UserError as error:  # an engine that can be planned and not run
        run = {"error": str(error), "status": error.status}
    check.measured = run.get("samples_per_s")
    check.reason, check.status = run.get("error", ""), run.get("status", 0)
    return check


def _job(config: PlanConfig, predicted: Prediction) -> CompareConfig:
    """Return the settings of a comparison of one engine, with the plan's cut and messages in flight."""
    cut = ",".join(map(str, predicted.cut))
    in_flight = predicted.in_flight or config.partition.in_flight
    stages, engines = max(2, predicted.stages), (predicted.engine,)
    own = {"stages": stages, "cut": cut, "in_flight": in_flight, "out": "", "engines": engines}
    return config.to(CompareConfig, **own, profile="")  # that of a plan is a file
