"""Ctrl-C during training: the run ends early and writes what it has.

before training                       SIGINT or SIGTERM ends the process at once
training, first signal                rank 0 trains no further batch, and the run ends as at its last epoch
    after INTERRUPT_TIMEOUT_S         ends at once, because a rank is hung
training, second signal               ends at once

A launcher passes the signal on to its ranks. A rank that hears one tells the others within a heartbeat, which
may be on other hosts. A launcher also sends SIGTERM to all ranks when one has failed, or when it is killed
itself: then they end at once.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from workers.coordination.rendezvous import Rendezvous
from workers.failure.signals import DEADLINE_SIGNAL, Stopped, exit_with_parent, ignore_signals

INTERRUPT_TIMEOUT_S = 10.0
"""Seconds from a signal until a rank that still trains ends at once; as many again to write its results."""
SAME_SIGNAL_S = 0.5
"""A signal so soon after the first is the same one: a scheduler may send it to ranks and launcher."""
KEY = "interrupted"
"""Key under which a rank publishes the number of the signal that it has heard."""


class Interruption:
    """Whether a signal has asked this run to end early.

    Attributes:
        signum: the signal, once it has come.
        outcome: after which step, and what was saved, for the line that reports the end.
        finished: whether the run had trained to its end and written its results, so that a signal has changed
            nothing.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.outcome = ""
        self.finished = False
        self._accepts = self._trains = self._shared = False
        self._parent = os.getppid() if "RANK" in os.environ else None
        self._time = 0.0

    @property
    def name(self) -> str | None:
        """The name of the signal, such as SIGINT; None if none has come."""
        return None if self.signum is None else signal.Signals(self.signum).name

    def begin_training(self) -> None:
        """From now on the first signal ends training, not the process."""
        self._accepts = self._trains = True

    def end_training(self) -> None:
        """From now on this rank needs no other rank to train; it has time to write its results."""
        self._trains = False
        if self.signum is not None:
            signal.setitimer(signal.ITIMER_REAL, INTERRUPT_TIMEOUT_S)

    def install_handlers(self) -> None:
        """Let SIGINT and SIGTERM interrupt training or raise `Stopped`, and the death of the parent process
        send SIGTERM (Linux)."""
        for signum in (signal.SIGINT, signal.SIGTERM, DEADLINE_SIGNAL):
            signal.signal(signum, self._handle)
        exit_with_parent(signal.SIGTERM)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._goes_on(signum):
            ignore_signals()
            raise Stopped(signum if self.signum is None else self.signum)

    def _goes_on(self, signum: int) -> bool:
        """Return whether the process goes on after this signal, which has just come."""
        launcher_died = self._parent is not None and os.getppid() != self._parent
        if signum == DEADLINE_SIGNAL or launcher_died or not self._accepts:
            return False
        now = time.monotonic()
        if self.signum is None:
            self.signum, self._time = signum, now
            signal.setitimer(signal.ITIMER_REAL, INTERRUPT_TIMEOUT_S)
        return now - self._time < SAME_SIGNAL_S

    def share(self, job: Rendezvous) -> None:
        """Publish the signal that came to this rank, or raise here one that came to another rank. For the
        thread of the heartbeat."""
        if self.signum is None:
            if self._accepts and (signum := job.peek(KEY)) and self.signum is None:
                os.kill(os.getpid(), signum)  # its own may have come while the store answered: not a second
        elif not self._shared:
            self._shared = True
            if self._trains and (job.peek("failure") or job.gone_ranks()):
                os.kill(os.getpid(), DEADLINE_SIGNAL)  # the launcher ends all ranks because one has failed
            else:
                job.publish_first(KEY, self.signum)
