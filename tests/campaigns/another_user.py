"""Another user of the machine attacks a running job: it must end well and print nothing of theirs.

    python -m tests.campaigns.another_user               every attack on every kind of job
    python -m tests.campaigns.another_user --rounds 5    five times, with other random bytes

Needs root, to become another user. The attacks are in `tests.support.stranger`. Every listener of the job is
attacked from the moment at which it appears; in a supervised job a stage is killed meanwhile, and has to get
past the connections that the stranger holds.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from tests.campaigns.report import Report, known_faults
from tests.support.digits_jobs import SAMPLES
from tests.support.jobs import TINY, descendants, kill, started
from tests.support.stranger import ATTACKS, FORGED_TEXT, Listener, Targets, stranger
from workers.coordination.signing import JOB_SECRET

EPOCHS = 20
JOBS: dict[str, tuple[str, ...]] = {
    "shm": (),
    "supervised": ("--supervise", "--stage-restarts", "3", "--checkpoint-every", "50"),
    "tcp": ("--transport", "tcp"),
    "dist": ("--transport", "dist"),
}
"""Options by kind of job."""
JOB_TIMEOUT_S = 300.0
STRANGER_TIMEOUT_S = 60.0
"""The thread of the stranger that reads does nothing else."""
KNOWN_FAULTS = known_faults({}, [f"{attack} on {kind}" for kind in JOBS for attack in ATTACKS])
"""Cases that end otherwise, and why; a case that is mended must leave."""


def skip_reason() -> str:
    """Return why this machine cannot run the campaign; "" when it can."""
    return "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "only root can become another user"


def problem(kind: str, attack: str, seed: int, folder: Path) -> str:
    """Attack a job; return what is wrong with its end, "" when nothing is."""
    out = folder / "run"
    options = ["--stages", "2", "--epochs", str(EPOCHS), "--out", str(out), "--quiet", *JOBS[kind]]
    with (
        stranger(attack, seed) as pipe,
        started([sys.executable, "-m", "launch.train", *TINY, *options], TMPDIR=str(folder)) as job,
    ):
        try:
            secret = _attack(job, out, pipe, kind == "supervised")
            if job.poll() is None:
                return f"it did not end in {JOB_TIMEOUT_S:g} s"
            stdout, stderr = job.communicate()
            _send(pipe, None)
            if not pipe.poll(STRANGER_TIMEOUT_S):
                return f"the stranger did not answer in {STRANGER_TIMEOUT_S:g} s"
            values, files = pipe.recv()
        except TimeoutError as error:
            return str(error)
    if files:
        return f"a stranger can read {files}"
    if not secret or any(secret in value for value in values.values()):
        return "the secret of the job is in the store"
    if attack == "read" and not values:
        return "the stranger read nothing at all"
    return _end_problem(
        job.returncode, stdout, stderr, out, may_fail=attack == "forge", restarted=kind == "supervised"
    )


def _attack(job: subprocess.Popen[str], out: Path, pipe: Connection, kill_a_stage: bool) -> bytes:
    """Show the stranger every new process and listener until the job ends; return the secret of the job."""
    shown: Targets = Targets()
    secret = b""
    deadline = time.monotonic() + JOB_TIMEOUT_S
    while job.poll() is None and time.monotonic() < deadline:
        family = [psutil.Process(job.pid), *descendants(job.pid)]
        listeners = frozenset(each for process in family for each in _listeners(process))
        pids = frozenset(process.pid for process in family)
        new = Targets(listeners - shown.listeners, pids - shown.pids)
        if new != Targets():
            shown = Targets(shown.listeners | new.listeners, shown.pids | new.pids)
            _send(pipe, new)
        stages = [process for process in family if _parent(process) not in (os.getpid(), job.pid)]
        if kill_a_stage and stages and (out / "metrics.jsonl").exists():
            kill(stages[0].pid)
            kill_a_stage = False
        for process in family:
            secret = secret or _secret(process)
        time.sleep(0.1)
    return secret


def _send(pipe: Connection, targets: Targets | None) -> None:
    """Send to the stranger, who reads at once."""
    _, ready, _ = select.select([], [pipe], [], STRANGER_TIMEOUT_S)
    if not ready:
        raise TimeoutError(f"the stranger has read nothing for {STRANGER_TIMEOUT_S:g} s")
    pipe.send(targets)


def _listeners(process: psutil.Process) -> set[Listener]:
    """Return what a process listens at, in the abstract namespace and at TCP ports."""
    try:
        connections = process.net_connections("all")
    except psutil.Error:
        return set()
    unix = {("unix", c.laddr.lstrip("@\0")) for c in connections if str(c.laddr).startswith(("@", "\0"))}
    tcp = {("tcp", c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}
    return unix | tcp


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return os.getpid()


def _secret(process: psutil.Process) -> bytes:
    try:
        return process.environ().get(JOB_SECRET, "").encode()
    except psutil.Error:
        return b""


def _end_problem(status: int, stdout: str, stderr: str, out: Path, *, may_fail: bool, restarted: bool) -> str:
    """Return what is wrong with the end of a job; one that may fail does it in one line."""
    text, lines = stdout + stderr, stderr.splitlines()
    if FORGED_TEXT in text or any(not (c.isprintable() or c == "\n") for c in text):
        return f"a forged line: {text[-300:]!r}"
    if any(not line.startswith("dni-async: ") for line in lines):
        return f"lines that are not ours: {stderr[-500:]}"
    if status:
        return "" if may_fail and len(lines) == 1 else f"status {status}: {stderr[-500:]}"
    summary = json.loads((out / "summary.json").read_text())
    if (restarts := sum(stage.get("restarts", 0) for stage in summary["stages"])) != restarted:
        return f"{restarts} stages were started again"
    trained = [epoch["trained"] for epoch in summary["epochs"]]
    return "" if trained == [SAMPLES] * EPOCHS else f"trained are {trained}"


def campaign(kinds: list[str], attacks: list[str], folder: Path, *, rounds: int = 1) -> Report:
    """Try every attack on every kind of job."""
    report = Report()
    for seed in range(rounds):
        for kind in kinds:
            for attack in attacks:
                case, place = f"{attack} on {kind}", folder / str(report.cases)
                place.mkdir()
                report.add(case, problem(kind, attack, seed, place), KNOWN_FAULTS.get(case, ""))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.campaigns.another_user")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", nargs="+", choices=tuple(JOBS), default=list(JOBS))
    parser.add_argument("--attacks", nargs="+", choices=tuple(ATTACKS), default=list(ATTACKS))
    asked = parser.parse_args()
    if reason := skip_reason():
        print(f"dni-async: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        return campaign(asked.jobs, asked.attacks, Path(folder), rounds=asked.rounds).show()


if __name__ == "__main__":
    sys.exit(main())
