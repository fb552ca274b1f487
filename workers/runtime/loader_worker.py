"""The start of a process that reads samples for a rank (a worker of a DataLoader).

    rank      fork ─────────────────────────────────────── killed
    worker         own session, no sockets ─ reads ─ reads ─ killed by the kernel at once

A worker is forked, so it shares the data set's memory and holds copies of the rank's sockets. As long as it
held them, no neighbour of the rank would see that the rank has closed its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from workers.failure.signals import exit_with_parent


class WorkerStart:
    """What a worker does first: a DataLoader's `worker_init_fn`.

    Args:
        then: called with the worker's number at the end.
    """

    def __init__(self, then: Callable[[int], object] | None = None) -> None:
        self.rank_process = os.getpid()
        self.then = then

    def __call__(self, worker: int) -> None:
        """Be the worker of this number."""
        with suppress(OSError):  # it leads a session already
            os.setsid()  # a signal to the group of the rank, such as Ctrl-C, is for the rank alone
        if os.getppid() == self.rank_process:
            exit_with_parent(signal.SIGKILL, self.rank_process)
        else:  # a child of multiprocessing's fork server, or an orphan
            threading.Thread(target=_exit_with_creator, daemon=True).start()
        replace_sockets()
        sys.excepthook = _print_unless_rank_is_gone
        if self.then:
            self.then(worker)


def _print_unless_rank_is_gone(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an error of a thread, such as the one that hands tensors over; not that the rank has ended."""
    if not isinstance(error, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def replace_sockets() -> None:
    """Replace all sockets of this process, but stdin, stdout and stderr, by one whose other end is closed."""
    closed, other = socket.socketpair()
    other.close()
    with closed:
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # that of the folder itself is closed by now
                if (fd := int(name)) > 2 and stat.S_ISSOCK(os.fstat(fd).st_mode) and fd != closed.fileno():
                    os.dup2(closed.fileno(), fd, inheritable=False)


def _exit_with_creator() -> None:
    if creator := multiprocessing.parent_process():
        creator.join()
        os._exit(1)
