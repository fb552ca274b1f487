"""The supervisor: runs a stage in a process of its own, and again when that has died.

    rank (started by a launcher): torch imported, no thread started, no connection
     │ fork ──────► stage: rendezvous, device, channels, training
     │ waitpid       killed, or an error of its own
     │ fork ──────► stage: the same, from StableStorage and the last checkpoint  (no import: half a second)
     │ waitpid       ends: status 0, or it has told the user why not
     end, with the same status

A signal to the supervisor goes to the stage; the stage is killed when the supervisor is.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable

from dni_async.errors import StageCrash, StageError, UserError
from workers.failure.errors import AlreadyReported, format_error
from workers.failure.rank_runner import RankRunner
from workers.failure.signals import Stopped, exit_process, exit_with_parent
from workers.recovery.journal import last_entry
from workers.recovery.stable_storage import StableStorage

Work = Callable[[RankRunner, StableStorage], None]
"""What a stage's process does."""
CRASHED = 75
"""Exit status of a stage that has left last words instead of telling the user (EX_TEMPFAIL)."""
_ASKED = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask to end."""
_PATIENCE = 5.0
"""Seconds that a stage has to end when it was asked to."""


def keep_running(stable: StableStorage, limit: int, name: str, work: Work) -> None:
    """Return when `work` has ended well in a process of its own, the last of at most `limit` + 1.

    name: of the stage, for the user. Raises AlreadyReported when it has ended with a line for the user, and
    StageError when it has died too often.
    """
    while (cause := _died(_one_life(work, stable), stable)) is not None:
        entry = last_entry(stable.journal)
        done = f"{entry['stage']['counts']['steps']} steps done" if entry else "before the first step"
        what = f"{name} {cause}, {done}"
        if stable.restarts >= limit:
            raise StageError(f"{what}; it was started again {limit} times, as often as --stage-restarts says")
        stable.restarts += 1
        print(f"dni-async: {what}; restart {stable.restarts} of {limit}", file=sys.stderr, flush=True)


def own_fault(error: BaseException) -> bool:
    """Whether a new process of the stage may get on where this error came up."""
    return isinstance(error, StageCrash) or not isinstance(
        error, UserError | StageError | AlreadyReported | Stopped
    )


def _died(status: int, stable: StableStorage) -> str | None:
    """How the process died; None if it ended well. Raises AlreadyReported if it failed in good order."""
    if status == 0:
        return None
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    if status == CRASHED:
        return f"failed ({stable.words.newest()[1].decode()})"
    raise AlreadyReported("its own process has told", status)


def _one_life(work: Work, stable: StableStorage) -> int:
    """Exit status of a new process that does `work`; below 0: a signal."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    # Stopped, raised in what Python calls after a fork, would be ignored
    signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED)
    with warnings.catch_warnings():
        # OpenBLAS has threads as soon as it is imported; it stops them before a fork
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        exit_process(_live(work, stable, parent))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED)
        return _end_of(pid)
    except Stopped as stop:
        _stop(pid, stop.signum)
        raise AlreadyReported(str(stop), 128 + stop.signum) from None


def _live(work: Work, stable: StableStorage, parent: int) -> int:
    """The exit status of the stage's process."""

    def crashed(error: BaseException) -> int | None:
        if not own_fault(error):
            return None
        stable.words.write(stable.words.newest()[0] + 1, format_error(error).encode())
        return CRASHED

    def mortal(runner: RankRunner) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED)
        exit_with_parent(signal.SIGKILL, parent)
        work(runner, stable)

    return RankRunner(crashed).run(mortal)


def _end_of(pid: int) -> int:
    """Its exit status, when it has ended. Looks up twice a second: a signal that comes right before a call
    that waits does not interrupt it."""
    handle = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        while not poller.poll(500):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(handle)


def _stop(pid: int, signum: int) -> None:
    """Pass the signal on and wait for the end."""
    end = time.monotonic() + _PATIENCE
    with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has ended just before
        os.kill(pid, signum)
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(0.01)
