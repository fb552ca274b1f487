"""The supervisor runs a stage in a process of its own, and restarts it when that process has died.

    rank (started by a launcher): torch imported, no thread started, no connection
     │ fork ──────► stage: rendezvous, device, channels, training
     │ waitpid       killed, or ended by an error of its own
     │ fork ──────► stage: the same, from StableStorage and the last checkpoint  (nothing is imported)
     │ waitpid       ended: status 0, or it has reported its failure
     end, with the same status

A signal to the supervisor is passed on to the stage; the stage is killed when the supervisor is.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable

from dni_async.errors import StageCrash, StageError, UserError
from workers.failure.errors import AlreadyReported, format_error
from workers.failure.interruption import INTERRUPT_TIMEOUT_S
from workers.failure.rank_runner import RankRunner
from workers.failure.signals import Stopped, exit_process, exit_with_parent
from workers.recovery.journal import last_entry
from workers.recovery.stable_storage import StableStorage

Work = Callable[[RankRunner, StableStorage], None]
"""What a stage's process does."""
CRASHED = 75
"""Exit status of a stage that has written `StableStorage.last_error` instead of reporting it
(EX_TEMPFAIL)."""
STOP_TIMEOUT_S = 2 * INTERRUPT_TIMEOUT_S + 1.0
"""How long a stage may take after a signal to end training and to write its results; then it is killed."""
_WAIT_INTERVAL_S = 0.5
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def keep_running(storage: StableStorage, limit: int, name: str, work: Work) -> None:
    """Run `work` in a process of its own, restarted at most `limit` times, until it has ended well.

    Args:
        name: of the stage, for the user.

    Raises:
        AlreadyReported: the stage has ended with a line for the user.
        StageError: the stage has died too often.
    """
    while (death := _describe_death(_run_once(work, storage), storage)) is not None:
        entry = last_entry(storage.journal)
        done = f"{entry['stage']['counts']['steps']} steps done" if entry else "before the first step"
        what = f"{name} {death}, {done}"
        if storage.restarts >= limit:
            raise StageError(f"{what}; it was started again {limit} times, as often as --stage-restarts says")
        storage.restarts += 1
        print(f"dni-async: {what}; restart {storage.restarts} of {limit}", file=sys.stderr, flush=True)


def is_recoverable(error: BaseException) -> bool:
    """Whether a new process of the stage might not meet this error again."""
    return isinstance(error, StageCrash) or not isinstance(
        error, UserError | StageError | AlreadyReported | Stopped
    )


def _describe_death(status: int, storage: StableStorage) -> str | None:
    """How a process with this status died; None if it ended well. Raises AlreadyReported if it said why."""
    if status == 0:
        return None
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    if status == CRASHED:
        return f"failed ({storage.last_error.newest()[1].decode()})"
    raise AlreadyReported("the stage's process has reported its failure", status)


def _run_once(work: Work, storage: StableStorage) -> int:
    """Run `work` in a new process; returns its exit status, or minus the signal that killed it."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    # an exception raised in what Python calls after a fork would be ignored: no signal may come now
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    with warnings.catch_warnings():
        # OpenBLAS has threads as soon as it is imported; it stops them before a fork
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        exit_process(_run_in_child(work, storage, parent))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        return _wait_for_exit(pid)
    except Stopped as stop:
        if _terminate(pid, stop.signum) == 0:
            return 0
        raise AlreadyReported(str(stop), 128 + stop.signum) from None


def _run_in_child(work: Work, storage: StableStorage, parent: int) -> int:
    """Do the work of the stage's process; returns its exit status."""

    def save_error(error: BaseException) -> int | None:
        if not is_recoverable(error):
            return None
        storage.last_error.write(storage.last_error.newest()[0] + 1, format_error(error).encode())
        return CRASHED

    def unblock_and_work(runner: RankRunner) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        exit_with_parent(signal.SIGKILL, parent)
        work(runner, storage)

    return RankRunner(save_error).run(unblock_and_work)


def _wait_for_exit(pid: int) -> int:
    """The exit status of the process, once it has ended.

    It wakes up regularly: a signal that comes right before a call that waits does not interrupt it.
    """
    handle = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        while not poller.poll(_WAIT_INTERVAL_S * 1e3):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(handle)


def _terminate(pid: int, signum: int) -> int:
    """Pass the signal, and further ones, on, wait for the end of the process, and return its exit status."""
    for each in _STOP_SIGNALS:
        signal.signal(each, lambda again, frame: os.kill(pid, again))
    end = time.monotonic() + STOP_TIMEOUT_S
    try:
        os.kill(pid, signum)
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                ended = os.waitpid(pid, 0)
                break
            time.sleep(0.01)
        return os.waitstatus_to_exitcode(ended[1])
    except (ProcessLookupError, ChildProcessError):  # it was waited for just before
        return -signum
