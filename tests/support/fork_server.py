"""Ends the fork server, and all processes below it, when the test process that started it is gone.

Only the fork server imports this module (`forks.context`): the import starts the thread that watches. Without
it a killed pytest would leave everything behind, because each child of the server holds a write end of the
pipe whose closing ends the server, so that the server lives as long as its last child.

pytest (killed) <--watches-- fork server --SIGKILL--> children, stopped ones too, and their descendants
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time

import psutil

_RETRY_INTERVAL_S = 0.05


def _kill_everything_after(parent: int) -> None:
    """Wait for the end of a process, then kill all descendants of this one until none is left."""
    with contextlib.suppress(ProcessLookupError):  # it is gone already
        select.select([os.pidfd_open(parent)], [], [])
    while family := psutil.Process().children(recursive=True):
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        time.sleep(_RETRY_INTERVAL_S)  # the server's main thread reaps them, and ends behind the last one


threading.Thread(target=_kill_everything_after, args=(os.getppid(),), daemon=True).start()
