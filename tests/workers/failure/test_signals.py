"""Signals while nothing is set up yet: children start without torch, in milliseconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.jobs import ROOT
from workers.failure.signals import LAUNCHER

TEST_TIMEOUT_S = 20.0


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A Python process; what it prints is read by the test."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "RANK"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("environment", "status", "line"),
    [({}, 130, "dni-async: stopped by SIGINT\n"), ({"RANK": "0"}, -signal.SIGINT, "")],
    ids=["a command", "a rank"],
)
def test_an_interrupted_import_ends_in_one_line(environment: dict, status: int, line: str) -> None:
    code = """
from workers.failure.signals import stop_quietly
stop_quietly()
print("ready", flush=True)
import time
time.sleep(0.5)
"""
    with start(code, **environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=TEST_TIMEOUT_S)
    assert (process.returncode, stderr) == (status, line)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of the parent")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_rank_ends_with_its_launcher_whenever_that_dies(moment: str, tmp_path: Path) -> None:
    rank = """
import os, sys, time
from workers.failure.signals import exit_with_launcher
print(os.getpid(), flush=True)
if sys.argv[1] == "before":  # the launcher dies before the signal is asked for
    while os.getppid() == int(os.environ["DNI_ASYNC_LAUNCHER"]):
        time.sleep(0.01)
exit_with_launcher()
print("asked", flush=True)
time.sleep(60)
"""
    launcher = """
import os, subprocess, sys, time
environment = os.environ | {"DNI_ASYNC_LAUNCHER": str(os.getpid())}
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], env=environment)
time.sleep(60)
"""
    assert LAUNCHER == "DNI_ASYNC_LAUNCHER"
    with start(launcher, rank, moment) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        if moment == "after":
            assert process.stdout.readline() == "asked\n"
        process.kill()
        end = time.monotonic() + TEST_TIMEOUT_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.01)
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
            pytest.fail("the rank has outlived its launcher")
        assert process.stdout.read() == ""  # it was not even asked
