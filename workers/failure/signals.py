"""Signals that stop a rank, and the end of its process. Imports no torch, so it can run first of all.

A launcher that dies must not leave ranks behind. `exit_with_parent` asks the kernel for a signal at the
parent's death; because the parent may have died before the call, the parent is checked after it:

    launcher   fork ──────────── killed
    rank                start ──────────── exit_with_parent: asks for the signal, sees another parent ─ ends
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType

LAUNCHER = "DNI_ASYNC_LAUNCHER"
"""Environment variable with the process id of the local launcher."""

DEADLINE_SIGNAL = signal.SIGALRM
"""Ends a rank that a signal has interrupted and that did not end in time."""

_PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """A signal asked this process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def exit_with_launcher() -> None:
    """Send SIGTERM to this process when its launcher dies, or now if the local launcher has died already."""
    launcher = os.environ.get(LAUNCHER)
    exit_with_parent(signal.SIGTERM, int(launcher) if launcher else None)


def stop_quietly() -> None:
    """Let SIGINT end this process with one line, instead of a traceback out of some import, until
    `Interruption.install_handlers` is called. A rank ends without a line: its launcher prints one."""

    def stop(signum: int, frame: FrameType | None) -> None:
        os.write(2, b"dni-async: stopped by SIGINT\n")
        os._exit(128 + signum)

    signal.signal(signal.SIGINT, signal.SIG_DFL if "RANK" in os.environ else stop)


def ignore_signals() -> None:
    """Ignore SIGINT, SIGTERM and the deadline from now on: nothing must interrupt the short way out."""
    for signum in (signal.SIGINT, signal.SIGTERM, DEADLINE_SIGNAL):
        signal.signal(signum, signal.SIG_IGN)


def exit_with_parent(signum: int, parent: int | None = None) -> None:
    """Send `signum` to this process when its parent dies (Linux only).

    Args:
        parent: process id that the parent should have; if another process is the parent by now, the parent
            has died already and the signal is sent at once. None skips this check.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signum)


def exit_process(status: int) -> None:
    """End the process at once, so that no transport thread waiting for a dead peer can delay the exit."""
    ignore_signals()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):  # nobody reads the rest
            stream.flush()
    os._exit(status)
