"""A killed test process leaves none of its children behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.forks import context
from tests.support.jobs import ROOT, kill
from tests.support.waiting import until

CHILDREN = 3


def _stay(folder: Path, number: int) -> None:
    """Live on: the first child stops itself, and the second has a child of its own, too."""
    name = f"{number}"
    if number == 1 and os.fork() == 0:
        name = "grandchild"
    (folder / f"{name}.new").write_text(f"{os.getpid()}")
    (folder / f"{name}.new").rename(folder / f"{name}.pid")
    if number == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        time.sleep(60)


def _start_children(folder: Path) -> None:
    for number in range(CHILDREN):
        context().Process(target=_stay, args=(folder, number)).start()
    while True:
        time.sleep(60)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def test_children_of_a_killed_test_process_are_gone_within_seconds(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from pathlib import Path; from tests.support import "]
    command[-1] += "test_fork_server as test; test._start_children(Path(sys.argv[1]))"
    parent = subprocess.Popen([*command, str(tmp_path)], cwd=ROOT)
    family: list[psutil.Process] = []
    try:
        until(lambda: len([*tmp_path.glob("*.pid")]) == CHILDREN + 1, 60, "the start of all children")
        family = [psutil.Process(int(path.read_text())) for path in tmp_path.glob("*.pid")]
        stopped = psutil.Process(int((tmp_path / "0.pid").read_text()))
        until(lambda: stopped.status() == psutil.STATUS_STOPPED, 10, "the stop of a child")
        server = stopped.parent()
        assert server is not None and server.ppid() == parent.pid
        kill(parent.pid)
        parent.wait(10)
        until(lambda: not any(map(_lives, [*family, server])), 10, "the end of all children")
    finally:
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        parent.kill()
        parent.wait(10)
