"""One run at a time in an output folder."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from dni_async.errors import UserError


class RunLock:
    """A lock on an output folder, held to the end of the process or of a `with` block.

    The kernel frees the lock of a process that has died, so that none can be stale.

    OUT/run.lock holds process id and host of the last run.

    Raises:
        UserError: another run is using the folder.
    """

    def __init__(self, out: Path) -> None:
        self._file = os.open(out / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._file, 200).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise UserError(
                f"another run is writing to {out} ({holder}); wait for its end, or choose another --out"
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        os.register_at_fork(after_in_child=self._close)  # a worker of a loader may end a moment later

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()
