"""Kills stages of supervised jobs at random moments, and looks whether anything was lost.

    python -m tests.launch.kills --kills 200 --stages 3 --seed 0     (10 kills a job; status 1 on a problem)

Every job must end with status 0, all samples trained and tested, an accuracy like that of jobs without kills
(0.96 to 0.99 here), no process and no shared memory left.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from launch.config import TrainConfig
from tasks.digits import DigitsFcn
from tests.forks import Job
from tests.launch.jobs import descendants, shared_memory

EPOCHS, SAMPLES, STEPS, TESTED = 20, 1497, 24, 300
PATIENCE = 200.0
"""Seconds for the end of a job, when all kills are done."""
KILLS_PER_JOB = 10
ACCURACY = 0.93
"""The least that is within noise: without kills such jobs come to 0.96 to 0.99."""


@dataclass(slots=True)
class Report:
    """What a campaign found."""

    kills: int = 0
    jobs: int = 0
    accuracies: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def campaign(folder: Path, *, stages: int, kills: int, seed: int, pause: float = 2.0) -> Report:
    """Jobs one after the other until so many stages were killed; pause: seconds between kills, on average."""
    report, rng = Report(), random.Random(seed)
    while report.kills < kills:
        job_folder = folder / str(report.jobs)
        _one_job(job_folder, stages, min(KILLS_PER_JOB, kills - report.kills), rng, pause, report)
        report.jobs += 1
        print(f"{report.kills} kills, {report.jobs} jobs, {len(report.problems)} problems", flush=True)
    return report


def _one_job(folder: Path, stages: int, kills: int, rng: random.Random, pause: float, report: Report) -> None:
    config = TrainConfig(
        epochs=EPOCHS,
        batch_size=64,
        evaluations=2,
        checkpoint_every=10,
        supervise=True,
        stage_restarts=1000,
        out="set by the job",
        timeout=30.0,
    )
    before = shared_memory()
    with Job(config, DigitsFcn(depth=3, width=32), stages, folder) as job:
        done = 0
        while done < kills and all(rank.exitcode is None for rank in job.ranks):
            time.sleep(rng.random() * 2 * pause)
            done += _kill(job, rng)
        end = time.monotonic() + PATIENCE
        for rank in job.ranks:
            rank.join(max(0.0, end - time.monotonic()))
        statuses = [rank.exitcode for rank in job.ranks]
        family = [p for rank in job.ranks for p in descendants(rank.pid or 0)]
    report.kills += done
    problems = [] if statuses == [0] * stages else [f"statuses {statuses}", *job.lines()[-3:]]
    problems += ["processes are left"] * bool(family)
    problems += ["shared memory is left"] * (shared_memory() != before)
    if not problems:
        problems = _check(json.loads((job.out / "summary.json").read_text()), stages, report)
    report.problems += [f"{folder}: {problem}" for problem in problems]


def _kill(job: Job, rng: random.Random) -> bool:
    """Kill the stage of one of the supervisors, if it has begun to train."""
    if not (job.out / "metrics.jsonl").exists():
        return False
    victim = rng.choice(job.ranks)
    try:
        for process in psutil.Process(victim.pid).children():
            if process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                return True
    except psutil.NoSuchProcess:
        pass
    return False


def _check(summary: dict, stages: int, report: Report) -> list[str]:
    """What is wrong with the summary of a job."""
    wanted = {
        "samples": [EPOCHS * SAMPLES] * stages,
        "steps": [EPOCHS * STEPS] * stages,
        "version": [EPOCHS * STEPS] * stages,
        "targets_received": [EPOCHS * STEPS] * (stages - 1) + [0],
    }
    found = {key: [stage[key] for stage in summary["stages"]] for key in wanted}
    problems = [f"{key} are {found[key]}" for key in wanted if found[key] != wanted[key]]
    tested = [evaluation["tested"] for evaluation in summary["evaluations"]]
    if tested != [TESTED] * 2 * EPOCHS:
        problems.append(f"tested are {tested}")
    trained = [evaluation["trained"] for evaluation in summary["epochs"]]
    if trained != [SAMPLES] * EPOCHS:
        problems.append(f"trained are {trained}")
    report.accuracies.append(summary["final"]["test_accuracy"])
    if report.accuracies[-1] < ACCURACY:
        problems.append(f"accuracy is {report.accuracies[-1]}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.launch.kills")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between kills, on average")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = campaign(
            Path(folder), stages=asked.stages, kills=asked.kills, seed=asked.seed, pause=asked.pause
        )
    print(f"accuracy {min(report.accuracies, default=0):.3f} to {max(report.accuracies, default=0):.3f}")
    print("\n".join(report.problems) or "no problem")
    return bool(report.problems)


if __name__ == "__main__":
    sys.exit(main())
