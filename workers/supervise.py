"""Ends a rank well, whatever happens: one line for the user, the whole story in a log file.

    UserError                 one line, exit status 2
    StageError, PeerGone      one line naming stage and step, exit status 1
    SIGINT, SIGTERM           one line, exit status 130 or 143
    anything else             one line naming the error, exit status 1

Of all ranks that notice a failure, the first prints; the store decides who that is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType

from dni_async.errors import StageError, UserError
from workers.rendezvous import Rendezvous

_PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """A signal asked this process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def install_signals() -> None:
    """Turn SIGINT and SIGTERM into `Stopped`, and take the launcher's death for a SIGTERM (Linux)."""

    def stop(signum: int, frame: FrameType | None) -> None:
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_IGN)  # once is enough: the way out must not be interrupted
        raise Stopped(signum)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def status_of(error: BaseException) -> int:
    """Exit status for an error."""
    if isinstance(error, UserError):
        return 2
    return 128 + error.signum if isinstance(error, Stopped) else 1


def line_of(error: BaseException) -> str:
    """The error in one line."""
    text = " ".join(str(error).split())
    expected = isinstance(error, UserError | StageError | Stopped)
    return text if expected else f"{type(error).__name__}: {text}"


def log_failure(error: BaseException, folder: Path | None, rank: int) -> None:
    """Write the traceback to `folder`/rank-N.log."""
    if folder is None or isinstance(error, Stopped):
        return
    try:
        text = "".join(traceback.format_exception(error))
        (folder / f"rank-{rank}.log").write_text(text)
    except OSError:
        pass  # the line on the terminal says it all the same


class Guard:
    """Runs a rank's work and makes its end known.

    where: says what the rank was doing when a signal came, for the line.
    """

    def __init__(self) -> None:
        self.rendezvous: Rendezvous | None = None
        self.folder: Path | None = None
        self.where: Callable[[], str] = lambda: "before the first step"

    def run(self, work: Callable[[Guard], None]) -> int:
        """The exit status of `work`. On failure the line has been printed when this returns."""
        install_signals()
        try:
            work(self)
            return 0
        except (Exception, Stopped) as error:
            if isinstance(error, Stopped):
                error.args = (f"{error.args[0]} {self.where()}",)
            rank = self.rendezvous.rank if self.rendezvous else int(os.environ.get("RANK", 0))
            log_failure(error, self.folder, rank)
            if self._first():
                print(f"dni-async: {line_of(error)}", file=sys.stderr, flush=True)
            return status_of(error)

    def _first(self) -> bool:
        """Whether no other rank has told the user yet. Without an answer: tell."""
        if self.rendezvous is None or self.rendezvous.world == 1:
            return True
        try:
            self.rendezvous.store.set_timeout(timedelta(seconds=2))
            return self.rendezvous.claim("failure")
        except Exception:
            return True


def leave(status: int) -> None:
    """End the process now: no thread of a transport that still waits for a dead peer can hold it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
