"""How would it scale? Predicts every engine for many numbers of stages from one measured profile.

python -m launch.plan --task mnist-fcn --out runs/p                         the network as it is
python -m launch.plan --task mnist-fcn --repeat-layers 1024 --out runs/p    its middle layers repeated
python -m launch.plan --task mnist-fcn --profile runs/p/profile.json        without measuring again
python -m launch.plan --task mnist-fcn --wan 25,1000 --out runs/p           hosts that are far apart
python -m launch.plan --task mnist-fcn --task-args depth=9 --check          and compare with real runs
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dni_async.errors import UserError
from launch.config.command_line import parse
from launch.config.plan import PlanConfig
from launch.config.run_file import write_run_file
from launch.job.run_lock import RunLock
from launch.local.comparison_output import check_all_finished
from launch.planning.check import Check, run_checks
from launch.planning.predict import Planner, Prediction
from launch.planning.profile import Profile, load_profile
from launch.report.files import prepare_out, write_results
from launch.report.grid import Grid, show
from launch.report.plan_table import check_grid, plan_grid
from tasks.base import Task
from tasks.registry import create
from workers.failure.rank_runner import RankRunner, run_command


def work(runner: RankRunner) -> None:
    """Plan the task of the command line in its output folder, which no other run may use meanwhile."""
    config = parse(PlanConfig, "launch.plan")
    task = create(config.task.name, config.task.task_args)
    if task.carries_state:
        raise UserError(
            f"a plan measures layers on parts of a batch, and those of {task.name} carry state from batch to "
            "batch; set engines side by side with launch.compare"
        )
    out = prepare_out(config.output.out or tempfile.mkdtemp(prefix="dni_async-plan-"))
    with RunLock(out):
        write_run_file(out, "plan", config)
        plan_task(config, task, out, runner)


def plan_task(config: PlanConfig, task: Task, out: Path, runner: RankRunner) -> None:
    """Measure or read the profile, predict, check if that was asked for, write and show everything.

    Raises:
        UserError, StageError: a run of --check failed; its row says why.
    """
    runner.describe_position = lambda: "while costs were measured"
    profile = profile_of(config, task)
    profile.save(out / "profile.json")
    runner.describe_position = lambda: "while engines were predicted"
    network = profile.repeat(config.repeat_layers) if config.repeat_layers > len(profile.layers) else profile
    predictions = predict(config, network)
    checks = run_checks(config, task, profile, out / "check", runner) if config.check else []
    grids = [plan_grid(predictions, network, config.wire), *([check_grid(checks)] if checks else [])]
    write(config, predictions, checks, network, grids, out)
    if not config.output.quiet:
        for grid in grids:
            show(grid)
        print(f"written to {out}")
    check_all_finished(
        {
            f"{c.engine} in {c.stages} stages": [{"error": c.reason, "status": c.status}]
            for c in checks
            if c.status
        }
    )


def profile_of(config: PlanConfig, task: Task) -> Profile:
    """Read from `--profile`, or measured now."""
    if config.profile:
        return load_profile(Path(config.profile), config)
    if not config.output.quiet:
        print("measuring layers, SG networks and messages", flush=True)
    from launch.planning.measure import (
        measure,  # torch's optimizers: seconds that a saved profile does not need
    )

    return measure(config, task)


def predict(config: PlanConfig, profile: Profile) -> list[Prediction]:
    """Every engine for every number of stages; backprop, which has one, comes first."""
    layers = len(profile.layers)
    counts = config.counts(layers)
    if layers < 2:
        raise UserError(f"a network of {layers} layer cannot be cut")
    most = max(counts)
    if most > layers:
        raise UserError(
            f"{most} stages cannot share {layers} layers; use 2 to {layers}, or --repeat-layers {most}"
        )
    planner = Planner(profile, config.partition, config.wire)
    first = [planner.predict("backprop", 1)] if "backprop" in config.engines else []
    others = [engine for engine in config.engines if engine != "backprop"]
    return first + [planner.predict(engine, count) for count in counts for engine in others]


def write(
    config: PlanConfig,
    predictions: list[Prediction],
    checks: list[Check],
    profile: Profile,
    grids: list[Grid],
    out: Path,
) -> None:
    """Write plan.json, plan.md and plan.png."""
    data: dict[str, Any] = {
        "settings": profile.settings,
        "hardware": profile.hardware,
        "layers": len(profile.layers),
        "repeated": profile.repeated,
        "emulated": profile.emulated,
        "wan": config.wan,
        "predictions": [asdict(prediction) for prediction in predictions],
        "checks": [asdict(check) | {"error_share": check.error} for check in checks],
    }
    write_results(out, "plan", data, grids)
    from launch.report.plan_plot import plot_plan  # matplotlib: a second that --help and errors do not need

    plot_plan(predictions, out / "plan.png", profile)


if __name__ == "__main__":
    run_command(work)
