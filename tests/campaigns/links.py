"""Links between emulated hosts are cut, and stages there killed: is anything lost or left behind?

    python -m tests.campaigns.links --cuts 50 --kills 50 --seed 0    10 disturbances in a job of 2 stages

Every stage runs on a host of its own (a network namespace) under --supervise, with links over tcp. A cut
takes the interface of a host down for up to 5 s, or resets every connection of that host to the other one,
that to the rendezvous store included. Every job must end with status 0, all samples trained and tested, an
accuracy like that of jobs without disturbances, no process and no shared memory left.

cut, kill ---- connections are made again, a stage is forked again ---- trains again
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dni_async.errors import UserError
from launch.config.train import TrainConfig
from launch.local.launcher import run_local
from launch.local.wan import INTERFACE, FarHosts, Wire, address, enter, far_hosts, in_thread
from tasks.vision.digits import DigitsFcn
from tests.campaigns.report import Report
from tests.support.digits_jobs import EVALUATIONS, losses
from tests.support.jobs import descendants, shared_memory

STAGES, EPOCHS = 2, 60
PER_JOB = 10
LONGEST_CUT_S = 5.0
TIMEOUT_S = 20.0
START_TIMEOUT_S = 90.0
WIRE = Wire(0.005, 125e6)


@dataclass(slots=True)
class LinkReport(Report):
    """What the disturbances did; they are its cases."""

    done: dict[str, int] = field(default_factory=lambda: {"cut": 0, "reset": 0, "kill": 0})
    accuracies: list[float] = field(default_factory=list)


def skip_reason() -> str:
    """Return why this machine cannot run the campaign; "" when it can."""
    try:
        with far_hosts(1, WIRE):
            return ""
    except UserError as error:
        return str(error)


def campaign(folder: Path, *, cuts: int, kills: int, seed: int, pause: float = 1.0) -> LinkReport:
    """Run jobs one after the other until so many links were cut and so many stages killed.

    Args:
        folder: for the jobs.
        seed: of kinds, hosts and moments.
        pause: mean seconds between two disturbances.
    """
    report, rng, jobs = LinkReport(), random.Random(seed), 0
    left = ["cut"] * (cuts - cuts // 4) + ["reset"] * (cuts // 4) + ["kill"] * kills
    rng.shuffle(left)
    while left:
        disturbances = [left.pop() for _ in range(min(PER_JOB, len(left)))]
        left += _one_job(folder / str(jobs), disturbances, rng, pause, report)
        jobs += 1
        print(f"{report.done}, {jobs} jobs, {len(report.problems)} problems", flush=True)
    return report


def _one_job(
    folder: Path, disturbances: list[str], rng: random.Random, pause: float, report: LinkReport
) -> list[str]:
    """Run a job; return the disturbances that it ended too soon for."""
    out, before, left = folder / "run", shared_memory(), list(disturbances)
    config = TrainConfig.of(
        stages=STAGES,
        epochs=EPOCHS,
        batch_size=64,
        evaluations=EVALUATIONS,
        checkpoint_every=10,
        supervise=True,
        stage_restarts=1000,
        transport="tcp",
        out=str(out),
        timeout=TIMEOUT_S,
        quiet=True,
    )
    problems: list[str] = []
    with (
        far_hosts(STAGES, WIRE) as hosts,
        _disturbing(hosts, out / "metrics.jsonl", left, rng, pause, report),
    ):
        try:
            run_local(config, DigitsFcn(depth=3, width=32), hosts)
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
    problems += ["processes are left"] * any("rank_main" in " ".join(p.cmdline()) for p in _family())
    problems += ["shared memory is left"] * (shared_memory() != before)
    if not problems:
        summary = json.loads((out / "summary.json").read_text())
        problems = losses(summary, STAGES, EPOCHS)
        report.accuracies.append(summary["final"]["test_accuracy"])
    report.problems += [f"{folder}, {disturbances}: {problem}" for problem in problems]
    return left


@contextmanager
def _disturbing(
    hosts: FarHosts, metrics: Path, left: list[str], rng: random.Random, pause: float, report: LinkReport
) -> Iterator[None]:
    """Disturb the job from its first line of metrics to the end of the block, in a thread."""
    ended = threading.Event()

    def run() -> None:
        start = time.monotonic()
        while not (metrics.exists() and metrics.stat().st_size) and not ended.wait(0.05):
            if time.monotonic() - start > START_TIMEOUT_S:
                return
        while left and not ended.wait(rng.random() * 2 * pause):
            if _disturb(hosts, left[-1], rng):
                report.done[left.pop()] += 1
                report.cases += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _disturb(hosts: FarHosts, kind: str, rng: random.Random) -> bool:
    """Do one thing to one host; returns whether there was something to do it to."""
    host = rng.randrange(STAGES)
    if kind == "kill":
        ranks = [process for process in _family() if process.ppid() == os.getpid()]
        stages = [stage for rank in ranks for stage in rank.children()]
        if not stages:
            return False
        rng.choice(stages).kill()
    elif kind == "reset":
        _run(hosts, host, "ss", "-K", "dst", address(1 - host))
    else:
        _run(hosts, host, "ip", "link", "set", INTERFACE, "down")
        time.sleep(rng.random() * LONGEST_CUT_S)
        _run(hosts, host, "ip", "link", "set", INTERFACE, "up")
    return True


def _run(hosts: FarHosts, host: int, *command: str) -> None:
    def run() -> None:
        enter(hosts.namespaces[host])
        subprocess.run(command, capture_output=True, timeout=START_TIMEOUT_S)

    in_thread(run)


def _family() -> list[psutil.Process]:
    """The processes below this one that still run."""
    alive = []
    for process in descendants(os.getpid()):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and "rank_main" in " ".join(process.cmdline()):
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.campaigns.links")
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between two of them")
    asked = parser.parse_args()
    if reason := skip_reason():
        print(f"dni-async: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        report = campaign(Path(folder), **vars(asked))
    print(f"accuracy {min(report.accuracies, default=0):.3f} to {max(report.accuracies, default=0):.3f}")
    return report.show()


if __name__ == "__main__":
    sys.exit(main())
