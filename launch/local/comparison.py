"""Runs the contestants of a comparison in turn, each in a job of its own on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dni_async.errors import StageError, UserError
from launch.config.compare import CompareConfig, contestant_label
from launch.local.launcher import run_local
from launch.local.wan import FarHosts
from launch.report.comparison_rows import Run
from tasks.base import Task
from workers.failure.errors import AlreadyReported
from workers.failure.rank_runner import RankRunner


def run_engines(
    config: CompareConfig, task: Task, out: Path, runner: RankRunner, hosts: FarHosts | None
) -> dict[str, list[Run]]:
    """All runs in turn, by the contestants' labels."""
    runs: dict[str, list[Run]] = {engine: [] for engine in config.engines}
    for repeat in range(config.repeats):
        for engine, so_far in runs.items():
            if any("error" in run for run in so_far):
                continue  # its row is decided
            runner.describe_position = lambda engine=engine: f"while {engine} ran"  # type: ignore[misc]
            so_far.append(run_engine(config, task, engine, out, repeat, hosts))
    return {contestant_label(engine): many for engine, many in runs.items()}


def run_engine(
    config: CompareConfig, task: Task, engine: str, out: Path, repeat: int, hosts: FarHosts | None = None
) -> Run:
    """One run of one contestant. A failure becomes its row: it may be bad input for this engine only."""
    name = contestant_label(engine)
    folder = out / (name if config.repeats == 1 else f"{name}-{repeat + 1}")
    job = config.job(engine, folder, repeat)
    if not config.output.quiet:
        stages = f"{job.partition.stages} stages" if job.partition.stages > 1 else "1 process"
        print(f"--- {name}, {stages}" + (f", run {repeat + 1}" if config.repeats > 1 else ""), flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        run_local(job, task, hosts)
    except AlreadyReported as failure:
        if failure.status > 2:
            raise
        return {"error": str(failure), "status": failure.status, "stages": job.partition.stages}
    except (StageError, UserError) as failure:
        status = 2 if isinstance(failure, UserError) else 1
        return {"error": str(failure), "status": status, "stages": job.partition.stages}
    return json.loads((folder / "summary.json").read_text())


def check_somebody_finished(runs: dict[str, list[Run]]) -> None:
    """Raises UserError when the input was bad for every engine, StageError when all failed otherwise."""
    failures = {engine: run for engine, many in runs.items() for run in many if "error" in run}
    if len(failures) < len(runs):
        return
    reasons = {run["error"]: engine for engine, run in failures.items()}
    reported = "; ".join(f"{engine}: {reason}" for reason, engine in reasons.items())
    bad_input = all(run["status"] == 2 for run in failures.values())
    one = next(iter(reasons)) if len(reasons) == 1 else f"every engine failed: {reported}"
    raise (UserError if bad_input else StageError)(one)
