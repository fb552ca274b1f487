"""An error in a worker of a DataLoader, as one in this process: its own line, place and traceback.

torch raises it with the worker's traceback as its text:

    Caught KeyError in DataLoader worker process 0.        torch's
    Original Traceback (most recent call last):
      File ".../torch/utils/data/_utils/worker.py", line 349, in _worker_loop
      File "/home/me/my_task.py", line 12, in __getitem__  the user's place
    KeyError: 'dim'                                        the error's line
"""

from __future__ import annotations

from dni_async.errors import UserError
from workers.failure.users_code import place_in_text

_CAUSE = "\n\nThe above exception was the direct cause of the following exception:\n\n"


class LoaderError(RuntimeError):
    """An error in a worker of a DataLoader: `KeyError: 'dim'`."""


class WorkerTraceback(Exception):
    """The text of a traceback in a worker, with the place in the user's code that it names, or ""."""

    def __init__(self, text: str) -> None:
        super().__init__(f"in a worker of the loader:\n{text}")
        self.place = place_in_text(text.split(_CAUSE)[0])


def original_error(error: Exception) -> Exception:
    """Return the error of a worker that torch has raised as `error`: a UserError, or else a LoaderError; the
    same error if it is none of a worker."""
    text = str(error)
    if text.startswith("DataLoader worker (pid"):
        return LoaderError(text)  # it has died
    if "in DataLoader worker process" not in text.partition("\n")[0]:
        return error
    trace = text.partition("Original ")[2]
    kind, _, message = _last_line(trace).partition(": ")
    name = kind.rpartition(".")[2]
    own = UserError(message) if name == UserError.__name__ else LoaderError(f"{name}: {message}")
    own.__cause__ = WorkerTraceback(trace)
    return own


def _last_line(trace: str) -> str:
    """Return what stands behind the frames of the last traceback: `KeyError: 'dim'`."""
    lines = trace.split(_CAUSE)[-1].splitlines()[1:]
    first = next((i for i, line in enumerate(lines) if line and not line.startswith(" ")), 0)
    return " ".join(" ".join(lines[first:]).split())
