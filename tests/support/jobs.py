"""Runs whole jobs in real processes for the tests, each with a deadline, and reaps what it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import psutil

from tests.support.forks import context
from workers.failure.rank_runner import run_command

ROOT = Path(__file__).parents[2]
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
TINY = ("--task", "digits-fcn", "--task-args", "depth=3", "width=32", "--batch-size", "64")
"""A network that trains an epoch in a tenth of a second."""


@contextmanager
def started(
    command: Sequence[str], output: int | None = subprocess.PIPE, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A process and all its descendants, which are gone afterwards.

    Args:
        command: program and arguments.
        output: where the process writes; None: where this process writes.
        environment: more of it.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=output,
        stderr=output,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        family = descendants(process.pid)
        for member in family:
            member.kill()
        if process.poll() is None:
            process.kill()
        process.communicate()


def run(
    module: str, *arguments: str, timeout: float = 90.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` to its end, without the seconds in which an interpreter imports torch."""
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")
        process = context().Process(
            target=_run, args=(module, arguments, os.environ | environment, str(out), str(err))
        )
        process.start()
        try:
            process.join(timeout)
            assert process.exitcode is not None, f"{module} did not end in {timeout} s"
        finally:
            for member in descendants(process.pid or 0):
                member.kill()
            process.kill()
            process.join()
        status = process.exitcode
        return subprocess.CompletedProcess([module, *arguments], status, out.read_text(), err.read_text())


def _run(module: str, arguments: tuple[str, ...], environment: dict[str, str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2)
    )
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    name = f"{module}.__main__" if module == "launch.report" else module  # a package
    run_command(import_module(name).work)


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below `pid`."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def rank_processes(marker: str) -> dict[int, int]:
    """Process ids by rank, of jobs that have `marker` in their command line or their TMPDIR."""
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            words = [*process.cmdline(), environment.get("TMPDIR", "")]
            if "RANK" in environment and marker in " ".join(words):
                found[int(environment["RANK"])] = process.pid
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def our_lines(text: str) -> list[str]:
    """The lines that dni_async printed about a failure."""
    return [line for line in text.splitlines() if line.startswith("dni-async:")]


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def shared_memory() -> set[str]:
    """Files in shared memory; semaphores, which only other programs' multiprocessing makes, aside."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}
