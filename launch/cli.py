"""The command line: one parser for all commands, and one line when something is wrong with it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

import tyro

from dni_async.errors import UserError
from workers.failure.rank_runner import RankRunner, leave

Config = TypeVar("Config")


def parse(cls: type[Config], prog: str, arguments: Sequence[str] | None = None) -> Config:
    """`cls` from the command line. Raises UserError with one line; --help prints and exits as usual."""
    complaint = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(complaint),
            _wide_terminal(sys.argv if arguments is None else arguments),
        ):
            return tyro.cli(cls, prog=prog, args=arguments)
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.flush()  # now, that a reader that has gone is told from other ends
            raise
        raise UserError(f"{_first_line(complaint.getvalue())}; see {prog} --help") from None


def main() -> None:
    """`dni-async COMMAND ...` does what `python -m launch.COMMAND ...` does."""
    from launch import bench, compare, export, generate, latency, plan, soak, train, windows

    commands = {
        "train": train.main,
        "compare": compare.main,
        "plan": plan.main,
        "latency": latency.main,
        "windows": windows.main,
        "bench": bench.main,
        "generate": generate.main,
        "export": export.main,
        "soak": soak.main,
    }
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in commands:
        sys.argv = [f"dni-async {name}", *sys.argv[2:]]
        commands[name]()
        return
    leave(RankRunner().run(lambda runner: _no_command(name, ", ".join(commands))))


def _no_command(name: str, known: str) -> None:
    """What is said where no command runs. Raises UserError."""
    if name not in ("-h", "--help"):
        raise UserError(f"unknown command ({name}); use one of {known}")
    print(f"usage: dni-async COMMAND [options], where COMMAND is one of {known}; each has --help")


@contextlib.contextmanager
def _wide_terminal(arguments: Sequence[str]) -> Iterator[None]:
    """Keep messages that are meant for a box from being broken into lines (help is left alone)."""
    before = os.environ.get("COLUMNS")
    if "--help" not in arguments and "-h" not in arguments:
        os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if before is not None:
            os.environ["COLUMNS"] = before


def _first_line(box: str) -> str:
    """The message in tyro's box, which has no sides where the output is not UTF-8."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    heads = (i for i, line in enumerate(lines) if line.startswith("╭") or set(line) == {"-"})
    below = lines[next(heads, -1) + 1 :]
    first = next((line for line in below if line.strip("─╰╯-")), " ".join(box.split()))
    prefix = "Error parsing "
    if first.startswith(prefix) and not first.startswith(prefix + "-"):
        first = first.split(": ", 1)[-1]
    return first
