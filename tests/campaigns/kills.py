"""Processes of jobs are killed at random moments: is anything lost or left behind?

    python -m tests.campaigns.kills --kills 200 --stages 3 --seed 0    stages, 10 in a job
    python -m tests.campaigns.kills --kills 40 --elastic               ranks, which the launcher starts again

Stages run under --supervise. Every job must end with status 0, all samples trained and tested, an accuracy
like that of jobs without kills (0.96 to 0.99 here), no process and no shared memory left.

kill ---- a stage is forked again (supervised), or all ranks are started again (elastic) ---- trains again
          one kill of ranks in three is followed by another while the next ranks are starting
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from launch.config.train import TrainConfig
from tasks.vision.digits import DigitsFcn
from tests.campaigns.report import Report
from tests.support.digits_jobs import EVALUATIONS, losses
from tests.support.forks import Job
from tests.support.jobs import TINY, descendants, kill, our_lines, rank_processes, shared_memory, started

EPOCHS = 20
KILLS_PER_JOB = 10
PROGRESS_TIMEOUT_S = 60.0
"""A job that makes no step for so long after a kill is a problem."""
END_TIMEOUT_S = 200.0
"""A job that has not ended so long after its last kill is a problem."""


@dataclass(slots=True)
class KillReport(Report):
    """What the kills did; its cases are the kills."""

    jobs: int = 0
    accuracies: list[float] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from a kill to the next step of stage 0, of elastic jobs."""


def campaign(
    folder: Path, *, stages: int, kills: int, seed: int, pause: float = 2.0, elastic: bool = False
) -> KillReport:
    """Run jobs one after the other until so many processes were killed.

    Args:
        folder: for the jobs.
        stages: of every job.
        kills: how many processes to kill in all.
        seed: of the victims and the moments.
        pause: mean seconds between two kills.
        elastic: kill ranks of a job with --max-restarts instead of stages of a supervised job.
    """
    report, rng = KillReport(), random.Random(seed)
    one_job = _one_elastic_job if elastic else _one_supervised_job
    while report.cases < kills:
        job_folder = folder / str(report.jobs)
        one_job(job_folder, stages, min(KILLS_PER_JOB, kills - report.cases), rng, pause, report)
        report.jobs += 1
        print(f"{report.cases} kills, {report.jobs} jobs, {len(report.problems)} problems", flush=True)
    return report


def _one_supervised_job(
    folder: Path, stages: int, kills: int, rng: random.Random, pause: float, report: KillReport
) -> None:
    config = TrainConfig.of(
        epochs=EPOCHS,
        batch_size=64,
        evaluations=EVALUATIONS,
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
            done += _kill_a_stage(job, rng)
        end = time.monotonic() + END_TIMEOUT_S
        for rank in job.ranks:
            rank.join(max(0.0, end - time.monotonic()))
        statuses = [rank.exitcode for rank in job.ranks]
        family = [p for rank in job.ranks for p in descendants(rank.pid or 0)]
    report.cases += done
    problems = [] if statuses == [0] * stages else [f"statuses {statuses}", *job.lines()[-3:]]
    problems += ["processes are left"] * bool(family)
    problems += ["shared memory is left"] * (shared_memory() != before)
    if not problems:
        problems = _check(job.out, stages, report)
    report.problems += [f"{folder}: {problem}" for problem in problems]


def _kill_a_stage(job: Job, rng: random.Random) -> bool:
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


def _one_elastic_job(
    folder: Path, stages: int, kills: int, rng: random.Random, pause: float, report: KillReport
) -> None:
    out = folder / "run"
    settings = [
        "--stages",
        str(stages),
        "--epochs",
        str(EPOCHS),
        "--evaluations",
        str(EVALUATIONS),
        "--out",
        str(out),
    ]
    settings += ["--checkpoint-every", "10", "--max-restarts", "1000", "--quiet"]
    before = shared_memory()
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "launch.train", *TINY, *settings]
    with started(command, TMPDIR=str(folder)) as process:
        try:
            end = report.cases + kills
            while report.cases < end and _trains(process, folder, stages):
                time.sleep(rng.random() * 2 * pause)
                victims = _kill_a_rank(folder, rng, report)
                killed = time.monotonic()
                if rng.random() < 1 / 3:  # the ranks that start in their place, too
                    time.sleep(rng.random() * 6)
                    victims |= _kill_a_rank(folder, rng, report)
                    killed = time.monotonic()
                if _trains(process, folder, stages, victims):
                    report.recoveries.append(time.monotonic() - killed)
            _, stderr = process.communicate(timeout=END_TIMEOUT_S)
            problems = [] if process.returncode == 0 else [f"status {process.returncode}", *our_lines(stderr)]
        except (AssertionError, ProcessLookupError) as error:
            problems = [str(error) or "it hangs"]
        problems += ["processes are left"] * bool(rank_processes(str(folder)))
    problems += ["shared memory is left"] * (shared_memory() != before)
    if not problems:
        problems = _check(out, stages, report)
    report.problems += [f"{folder}: {problem}" for problem in problems]


def _kill_a_rank(folder: Path, rng: random.Random, report: KillReport) -> set[int]:
    """Kill one rank of the job, if there is one now. Returns the process ids of all its ranks."""
    ranks = rank_processes(str(folder))
    if ranks:
        with contextlib.suppress(ProcessLookupError):
            kill(rng.choice(list(ranks.values())))
            report.cases += 1
    return set(ranks.values())


def _trains(process: subprocess.Popen[str], folder: Path, stages: int, gone: Collection[int] = ()) -> bool:
    """Wait until the job makes steps, in processes that are not `gone`; False when it ends instead."""
    reached, seen = folder / "run" / "reached.json", set[str]()
    deadline = time.monotonic() + PROGRESS_TIMEOUT_S
    while process.poll() is None and len(seen) < 3:
        assert time.monotonic() < deadline, f"no step for {PROGRESS_TIMEOUT_S:g} s"
        ranks = rank_processes(str(folder)).values()
        if len(ranks) == stages and not set(ranks) & set(gone) and reached.exists():
            seen.add(reached.read_text())
    return process.poll() is None


def _check(out: Path, stages: int, report: KillReport) -> list[str]:
    """Return what a job has lost."""
    summary = json.loads((out / "summary.json").read_text())
    report.accuracies.append(summary["final"]["test_accuracy"])
    return losses(summary, stages, EPOCHS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.campaigns.kills")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds between two kills")
    parser.add_argument("--elastic", action="store_true", help="kill ranks, not only their stages")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = campaign(Path(folder), **vars(asked))
    if report.recoveries:
        found = sorted(report.recoveries)
        print(f"seconds to the next step: median {median(found):.1f}, most {found[-1]:.1f}")
    print(f"accuracy {min(report.accuracies, default=0):.3f} to {max(report.accuracies, default=0):.3f}")
    return report.show()


if __name__ == "__main__":
    sys.exit(main())
