"""Ends a rank well, whatever happens: one line for the user, the whole story in a log file.

    UserError                 one line, exit status 2
    StageError, PeerGone      one line naming stage and step, exit status 1
    SIGINT, SIGTERM           one line, exit status 130 or 143
    nobody reads stdout       no line, exit status 141, as if SIGPIPE had ended it
    anything else             one line naming the error, exit status 1

Of all ranks that notice a failure, the first says why the job ends (`failure.report`). Where a wait has
reached its deadline, the line says who shows no sign of life (`coordination.heartbeat`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import FrameType

from dni_async.errors import Late, StageError, UserError
from workers.coordination.heartbeat import Heartbeat
from workers.coordination.rendezvous import Rendezvous
from workers.failure.failure_file import STDOUT_CLOSED, already_reported, tell
from workers.failure.report import FailureReport
from workers.transport.base import TransportTimeout, timed_out

_PR_SET_PDEATHSIG = 1

FINAL = "final"
"""Under this name a job remembers line and status of an end that a restart would come to again."""


class Stopped(BaseException):
    """A signal asked this process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class AlreadyReported(Exception):
    """A job in other processes has failed and one of them has told the user (the text repeats it)."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


class StdoutClosed(StageError):
    """Nobody reads standard output any more, as in `... | head`: nothing to be told, and nobody to tell."""

    status = STDOUT_CLOSED


def install_signals() -> None:
    """Turn SIGINT and SIGTERM into `Stopped`, and take the launcher's death for a SIGTERM (Linux)."""

    def stop(signum: int, frame: FrameType | None) -> None:
        ignore_signals()
        raise Stopped(signum)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def ignore_signals() -> None:
    """From now on: once is enough, and the way out, which takes seconds at most, must not be interrupted."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


def die_with_parent(signum: int, parent: int) -> None:
    """Take the death of `parent`, which has forked this process, for that signal (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # too late: it died before
        os.kill(os.getpid(), signum)


def status_of(error: BaseException) -> int:
    """Exit status for an error."""
    if isinstance(error, UserError | StageError | AlreadyReported):
        return error.status
    return 128 + error.signum if isinstance(error, Stopped) else 1


def line_of(error: BaseException) -> str:
    """The error in one line."""
    text = " ".join(str(error).split())
    expected = isinstance(error, UserError | StageError | Stopped)
    return text if expected else f"{type(error).__name__}: {text}"


def is_late(error: BaseException) -> bool:
    """Whether a wait has reached its deadline, be it one of ours or one of torch's."""
    if isinstance(error, UserError | StageError):
        return isinstance(error, Late)
    return isinstance(error, TransportTimeout) or (isinstance(error, RuntimeError) and timed_out(error))


def stdout_closed(error: BaseException) -> bool:
    """Whether the error came of writing to a pipe, and the reader of ours has gone."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    # an error may be raised from one that was raised from it
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if not any(isinstance(cause, BrokenPipeError) for cause in causes):
        return False
    poller = select.poll()
    for stream in (1, 2):
        poller.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))


def log_failure(error: BaseException, folder: Path | None, rank: int) -> None:
    """Add the traceback to `folder`/rank-N.log, where that of a start before may stand."""
    if folder is None or isinstance(error, Stopped | AlreadyReported | StdoutClosed):
        return
    try:
        text = "".join(traceback.format_exception(error))
        with open(folder / f"rank-{rank}.log", "a", encoding="utf-8") as log:
            log.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')}\n{text}\n")
    except OSError:
        pass  # the line on the terminal says it all the same


class RankRunner:
    """Runs a rank's work and makes its end known.

    folder: where the traceback goes. where: says what the rank was doing, for the line; doing: the same in
    more words, for others that wait.
    crashed: asked before the user is told of an error; an exit status of its own says that he is not to be.
    """

    def __init__(self, crashed: Callable[[BaseException], int | None] = lambda error: None) -> None:
        self._crashed = crashed
        self.rendezvous: Rendezvous | None = None
        self.folder: Path | None = None
        self.where: Callable[[], str] = lambda: f"rank {os.environ.get('RANK', 0)}, before the first step"
        self.doing: Callable[[], str] = lambda: self.where()
        self._heartbeat: Heartbeat | None = None
        self._verdict: FailureReport | None = None

    def meet(self, timeout: float) -> Rendezvous:
        """Join the other ranks (once), and let them know which process this is.

        Raises `AlreadyReported` in a job that was started anew in vain, as after bad input.
        """
        if self.rendezvous is None:
            self.rendezvous = Rendezvous.from_env(timeout)
            self.rendezvous.sign_in()
            if self.rendezvous.world > 1:
                self._listen(self.rendezvous)
            if final := self.rendezvous.recall(FINAL):
                raise AlreadyReported(*final)
        return self.rendezvous

    def run(self, work: Callable[[RankRunner], None]) -> int:
        """The exit status of `work`. On failure the line has been printed when this returns."""
        install_signals()
        try:
            work(self)
            sys.stdout.flush()
            return 0
        except (Exception, Stopped) as caught:
            ignore_signals()  # a launcher stops all ranks when the first is gone
            error = StdoutClosed() if stdout_closed(caught) else caught
            rank = int(os.environ.get("RANK", 0))
            log_failure(error, self.folder, rank)
            self._remember(error)
            if (status := self._crashed(error)) is not None:
                return status
            if not isinstance(error, AlreadyReported):
                self._say(error)
            return status_of(error)

    def _listen(self, rendezvous: Rendezvous) -> None:
        """Let the others know that this rank lives, and on rank 0 print what they say in the end."""
        self._verdict = FailureReport(rendezvous)
        notice = self._verdict.tell if rendezvous.rank == 0 else lambda: None
        self._heartbeat = Heartbeat(rendezvous, lambda: self.doing(), notice)
        self._heartbeat.start()

    def _remember(self, error: BaseException) -> None:
        """Let a restart know that it would end in the same way."""
        if isinstance(error, UserError | StdoutClosed) and self.rendezvous is not None:
            with contextlib.suppress(Exception):  # the launcher may be gone, and with it the store
                self.rendezvous.remember(FINAL, [line_of(error), error.status])

    def _line(self, error: BaseException) -> str:
        """The cause in one line. torchrun stops all ranks when one is gone: then that one is the cause."""
        if isinstance(error, UserError | StageError):  # they name stage and step where there are any
            line = line_of(error)
        else:
            line = f"{self.where()}: {line_of(error)}"
        if self._heartbeat and is_late(error):
            news = self._heartbeat.about(getattr(error, "peers", ()))
            return f"{line}; {news}" if news else line
        if not isinstance(error, Stopped):
            return line
        gone = self.rendezvous.gone_ranks() if self.rendezvous else []
        if error.signum == signal.SIGTERM and gone:
            names = " and ".join(f"rank {rank}" for rank in gone)
            return f"{names} is gone; {self.where()}: stopped"
        return line

    def _say(self, error: BaseException) -> None:
        """Let the user know; without the others, and without a store, by ourselves."""
        line, status = self._line(error), status_of(error)
        try:
            if self._verdict:
                self._verdict.say(line, status)
                return
        except Exception:
            pass  # the launcher, and with it the store, is gone
        if isinstance(error, Stopped) and already_reported():
            return  # before it met the others, because of one of them, which has said why
        tell(line, status)


def leave(status: int) -> None:
    """End the process now: no thread of a transport that still waits for a dead peer can hold it."""
    ignore_signals()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):  # nobody reads what is left
            stream.flush()
    os._exit(status)
