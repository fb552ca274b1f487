"""Where in a user's own code an error comes from: the file and line that the user can correct.

Traceback (most recent call last):
  launch/job/data.py, line 88, in read                    ours
  my_task.py, line 31, in data                            the user's: "my_task.py:31 in data()"
  .../site-packages/numpy/lib/npyio.py, line 427          a library's
FileNotFoundError: ...
"""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

_OURS = tuple(
    str(Path(__file__).parents[2] / name) + os.sep for name in ("dni_async", "launch", "workers", "tasks")
)
_STDLIB = tuple(sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib"))
_GENERATED = ("<frozen", "<string>")


def root_cause(error: BaseException) -> BaseException:
    """Return the first error of those that `raise ... from` has joined."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def place_of(error: BaseException) -> str:
    """Return the innermost place in the user's code, such as `my_task.py:31 in data()`; empty if there is
    none."""
    root = root_cause(error)
    frames = [
        (frame.filename, frame.lineno, frame.name) for frame in traceback.extract_tb(root.__traceback__)
    ]
    return getattr(root, "place", "") or _innermost(frames)  # of an error in another process


def place_in_text(trace: str) -> str:
    """Return the innermost place in the user's code that the text of a traceback names; empty if none."""
    return _innermost(re.findall(r'^ *File "(.+)", line (\d+), in (\S+)', trace, re.MULTILINE))


def _innermost(frames: Sequence[tuple[str, object, str]]) -> str:
    for path, line, function in reversed(frames):
        if _is_users(path):
            return f"{_shown(path)}:{line} in {function}()"
    return ""


def _is_users(path: str) -> bool:
    parts = Path(path).parts
    installed = "site-packages" in parts or "dist-packages" in parts
    return not (installed or path.startswith(_OURS + _STDLIB + _GENERATED))


def _shown(path: str) -> str:
    """Return the path from the working folder, if the file is below that."""
    shorter = os.path.relpath(path) if os.path.isabs(path) else path
    return path if shorter.startswith(os.pardir) else shorter
