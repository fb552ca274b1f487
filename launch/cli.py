"""`dni-async COMMAND ...` does what `python -m launch.COMMAND ...` does."""

from __future__ import annotations

import sys
from importlib import import_module

from dni_async.errors import UserError
from workers.failure.rank_runner import run_command

COMMANDS = (
    "train",
    "compare",
    "sweep",
    "study",
    "plan",
    "advise",
    "latency",
    "windows",
    "bench",
    "generate",
    "predict",
    "evaluate",
    "export",
    "report",
    "completion",
)


def main() -> None:
    """Run the command that the first argument names, with the arguments behind it."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        run_command(lambda runner: _usage(name))
        return
    sys.argv = [f"dni-async {name}", *sys.argv[2:]]
    module = "report.__main__" if name == "report" else name  # a package
    run_command(import_module(f"launch.{module}").work)


def _usage(name: str) -> None:
    """Print the usage. Raises UserError when something else than help was asked for."""
    known = ", ".join(COMMANDS)
    if name not in ("-h", "--help"):
        raise UserError(f"unknown command ({name}); use one of {known}")
    print(f"usage: dni-async COMMAND [options], where COMMAND is one of {known}; each has --help")
