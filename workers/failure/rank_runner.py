"""Runs a rank's work; if it fails, prints one line for the user and writes the traceback to a log file.

When several ranks fail, the first one's line is printed (`failure.report`). When a wait has reached its
deadline, the line also says which rank gave no sign of life (`coordination.heartbeat`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from dni_async.errors import StageError, UserError
from workers.coordination.heartbeat import Heartbeat
from workers.coordination.rendezvous import Rendezvous
from workers.failure.activity_file import ACTIVITY_FILE, write_activity
from workers.failure.errors import (
    AlreadyReported,
    StdoutClosed,
    caused_by_closed_stdout,
    exit_status,
    format_error,
    is_timeout,
    is_unexpected,
)
from workers.failure.failure_file import already_reported, report_failure, report_success
from workers.failure.interruption import Interruption
from workers.failure.report import FailureReporter
from workers.failure.signals import Stopped, exit_process, ignore_signals

FINAL = "final"
"""Key under which a job keeps line and status of a failure that a restart would only repeat."""


class RankRunner:
    """Runs the work of one rank.

    Attributes:
        folder: where the traceback goes; None writes none.
        describe_position: returns stage and step for the line, such as "stage 1 (rank 1), at step 37".
        describe_activity: as `describe_position`, and whether the rank computes or waits; for other ranks.
        interruption: whether a signal has asked the run to end early.

    Args:
        on_crash: called with the error before it is reported; returns an exit status to end with that status
            and without a report, or None.
    """

    def __init__(self, on_crash: Callable[[BaseException], int | None] = lambda error: None) -> None:
        self._on_crash = on_crash
        self.rendezvous: Rendezvous | None = None
        self.folder: Path | None = None
        self.describe_position: Callable[[], str] = lambda: (
            f"rank {os.environ.get('RANK', 0)}, before the first step"
        )
        self.describe_activity: Callable[[], str] = lambda: self.describe_position()
        self.interruption = Interruption()
        self._writing = threading.Lock()
        self._heartbeat: Heartbeat | None = None
        self._reporter: FailureReporter | None = None

    def run(self, work: Callable[[RankRunner], None]) -> int:
        """Run `work` and return its exit status; if it failed, the line has been printed."""
        self.interruption.install_handlers()
        try:
            work(self)
            sys.stdout.flush()
            return self._finish()
        except SystemExit as caught:
            if self.rendezvous is None:
                raise  # --help
            position = self.describe_position()
            error: BaseException = StageError(f"{position}: code of the task or of a plug-in called sys.exit")
            error.__cause__ = caught  # the log says where
        except (Exception, Stopped) as caught:
            error = StdoutClosed() if caused_by_closed_stdout(caught) else caught
        ignore_signals()  # a launcher stops all ranks when the first has ended
        return self._fail(error)

    def join(self, timeout: float) -> Rendezvous:
        """Join the other ranks, on the first call, and return the rendezvous.

        Raises:
            AlreadyReported: the job was restarted although its failure, such as bad input, will repeat.
        """
        if self.rendezvous is None:
            self.rendezvous = Rendezvous.from_env(timeout)
            self.rendezvous.publish_process()
            if self.rendezvous.world > 1 or ACTIVITY_FILE in os.environ:
                self._start_heartbeat(self.rendezvous)
            if final := self.rendezvous.read_before_restart(FINAL):
                raise AlreadyReported(*final)
        return self.rendezvous

    def begin(self, phase: str) -> None:
        """Name what this rank does after its last step, such as "while writing the results"."""
        position = self.describe_position()
        self.describe_position = self.describe_activity = lambda: f"{position}, {phase}"
        self._write_activity()

    def _write_activity(self) -> None:
        with self._writing:  # or a heartbeat that asked before could write after
            write_activity(int(os.environ.get("RANK", 0)), self.describe_activity())

    def _start_heartbeat(self, rendezvous: Rendezvous) -> None:
        """Show the other ranks and the launcher what this one does; rank 0 also prints failures of others."""
        reporter = self._reporter = FailureReporter(rendezvous)

        def on_beat() -> None:
            self._write_activity()
            if rendezvous.rank == 0:
                reporter.print_pending()
            self.interruption.share(reporter.job)

        self._heartbeat = Heartbeat(rendezvous, lambda: self.describe_activity(), on_beat)
        self._heartbeat.start()

    def _finish(self) -> int:
        """Return the exit status of work that has ended well; rank 0 reports a signal that has ended it."""
        signum = self.interruption.signum
        if self.rendezvous is not None and self.rendezvous.rank > 0:
            return 0
        if self.interruption.finished:
            report_success()
        if signum is None or self.interruption.finished:
            return 0
        ignore_signals()
        line, status = f"stopped by {self.interruption.name} {self.interruption.outcome}", 128 + signum
        if not self._publish(line, status):
            report_failure(line, status)
        return status

    def _fail(self, error: BaseException) -> int:
        log = log_failure(error, self.folder, os.environ.get("RANK", "0"))
        self._publish_final(error)
        if (status := self._on_crash(error)) is not None:
            return status
        if not isinstance(error, AlreadyReported):
            self._report(error, log)
        return exit_status(error)

    def _publish_final(self, error: BaseException) -> None:
        """Tell a restarted job that it would fail in the same way."""
        if isinstance(error, UserError | StdoutClosed) and self.rendezvous is not None:
            with contextlib.suppress(Exception):  # the launcher, and with it the store, may be gone
                self.rendezvous.publish_for_restart(FINAL, [format_error(error), error.status])

    def _report(self, error: BaseException, log: Path | None) -> None:
        line, status = self._line(error), exit_status(error)
        if log is not None and self.folder is None:
            line += f"; traceback in {log}"
        if self._publish(line, status):
            return
        if isinstance(error, Stopped) and already_reported():
            return  # stopped before it joined, because of a rank that has reported its failure
        report_failure(line, status)

    def _publish(self, line: str, status: int) -> bool:
        """Return whether the line of this rank, or of a faster one, is printed by way of the store."""
        with contextlib.suppress(Exception):  # the launcher, and with it the store, may be gone
            if self._reporter:
                self._reporter.report(line, status)
                return True
        return False

    def _line(self, error: BaseException) -> str:
        """The cause in one line. A launcher stops all ranks when one has died: then that one is the cause."""
        if isinstance(error, UserError | StageError):  # they name stage and step where there are any
            line = format_error(error)
        else:
            line = f"{self.describe_position()}: {format_error(error)}"
        if self._heartbeat and is_timeout(error):
            news = self._heartbeat.describe(getattr(error, "peers", ()))
            return f"{line}; {news}" if news else line
        if not isinstance(error, Stopped):
            return line
        gone = self.rendezvous.gone_ranks() if self.rendezvous else []
        if error.signum == signal.SIGTERM and gone:
            names = " and ".join(f"rank {rank}" for rank in gone)
            return f"{names} is gone; {self.describe_position()}: stopped"
        return line


def run_command(work: Callable[[RankRunner], None]) -> None:
    """Run `work` and end the process: status 0, 2 for bad input, 130 or 143 when stopped, else 1."""
    exit_process(RankRunner().run(work))


def log_failure(error: BaseException, folder: Path | None, rank: str) -> Path | None:
    """Append the traceback to `folder`/rank-N.log, which may hold that of an earlier start; without a folder,
    write that of an unexpected error to a temporary file. Return the path, or None.

    Bad input leaves no traceback: its line says all, and the folder may be that of another run.
    """
    if isinstance(error, Stopped | AlreadyReported | StdoutClosed):
        return None
    if not is_unexpected(error) and (folder is None or isinstance(error, UserError)):
        return None
    try:
        if folder is None:
            descriptor, name = tempfile.mkstemp(prefix=f"dni_async-rank-{rank}-", suffix=".log")
            os.close(descriptor)
            path = Path(name)
        else:
            path = folder / f"rank-{rank}.log"
        text = "".join(traceback.format_exception(error))
        with open(path, "a", encoding="utf-8") as log:
            log.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')}\n{text}\n")
    except OSError:
        return None  # the line on the terminal still names the error
    return path
