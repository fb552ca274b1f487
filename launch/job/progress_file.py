"""The number of steps done, in a file that outlives a killed process and so tells what the kill has cost.

step       0 ... 40 ... 52 †        OUT/reached.json: step 52, lost 0
restart         40 ... 47 †                           step 47, lost 12
restart         40 ... 60                             step 60, lost 19
                 └ the newest checkpoint each time
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from launch.job.output_folder import PROGRESS

WIDTH = 64
"""Bytes of the file: each step overwrites the one before in place, in about a microsecond."""


def lost_steps(out: Path, start: int, *, restart: bool) -> int:
    """Return how many steps the run in a folder had trained that it trains again when it goes on.

    Args:
        start: steps that are done where it goes on.
        restart: whether the launcher has started this job before; steps lost before it did do not count.
    """
    before = _read(out / PROGRESS)
    return max(0, before["step"] - start) + (before["lost_steps"] if restart else 0)


class ProgressFile:
    """The steps that stage 0 has done, which is ahead of the other stages.

    Args:
        start: steps that the run has done when it begins or goes on.
        lost_steps: steps that were trained and are trained again.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, out: Path, start: int, lost_steps: int) -> None:
        self._lost_steps = lost_steps
        self._file = os.open(out / PROGRESS, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.write(start)

    def write(self, step: int) -> None:
        """Write that so many steps are done. A full disk does not end training."""
        text = json.dumps({"step": step, "lost_steps": self._lost_steps})
        with contextlib.suppress(OSError):
            os.pwrite(self._file, f"{text:<{WIDTH - 1}}\n".encode(), 0)


def _read(path: Path) -> dict[str, int]:
    try:
        content = json.loads(path.read_text())
        return {name: int(content[name]) for name in ("step", "lost_steps")}
    except (OSError, ValueError, KeyError, TypeError, OverflowError):  # int(Infinity) overflows
        return {"step": 0, "lost_steps": 0}
