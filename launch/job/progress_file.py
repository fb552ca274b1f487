"""How far a run has come, in a file that outlives a killed process: so it is known what the kill has cost.

step       0 ... 40 ... 52 †        OUT/reached.json: step 52, lost 0
restart         40 ... 47 †                           step 47, lost 12
restart         40 ... 60                             step 60, lost 19
                 └ the newest checkpoint each time
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from dni_async.messages import Activation, Message

WIDTH = 64
"""Bytes of the file: each step overwrites the one before in place, in about a microsecond."""


class ProgressFile:
    """Stage 0's way, which is ahead of the others'.

    start: steps that the run has done when it begins or goes on. goes_on: whether from an earlier process.
    restart: whether this launch has begun already; what a launch before it has lost does not count.
    Raises OSError when the folder cannot be written to.
    """

    def __init__(self, out: Path, start: int, *, goes_on: bool, restart: bool) -> None:
        path = out / "reached.json"
        before = _read(path) if goes_on else {"step": 0, "lost_steps": 0}
        self.lost_steps = max(0, before["step"] - start) + (before["lost_steps"] if restart else 0)
        """Steps that were trained and are trained again."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.reached(start)

    def reached(self, step: int) -> None:
        """So many steps are done."""
        text = json.dumps({"step": step, "lost_steps": self.lost_steps})
        with contextlib.suppress(OSError):  # training shall not end for it
            os.pwrite(self._file, f"{text:<{WIDTH - 1}}\n".encode(), 0)

    def follow(self, messages: Iterator[Message]) -> Iterator[Message]:
        """The same messages; whoever asks for the next one is done with the one before."""
        for message in messages:
            yield message
            if isinstance(message, Activation) and message.train:
                self.reached(message.step + 1)


def _read(path: Path) -> dict[str, int]:
    try:
        told = json.loads(path.read_text())
        return {name: int(told[name]) for name in ("step", "lost_steps")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"step": 0, "lost_steps": 0}
