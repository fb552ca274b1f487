"""A command line becomes a configuration, or one line that says what is wrong with it."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

import tyro

from dni_async.errors import UserError
from launch.config.flat import FlatConfig
from launch.config.run_file import RunFile
from launch.config.task_defaults import task_defaults
from tasks.base import Task
from tasks.registry import find

Config = TypeVar("Config")

EXAMPLES = {
    "launch.train": (
        "--task mnist-fcn --stages 2 --rule cdni --out runs/a",
        "--task my_task:Tumours --stages 3 --out runs/b",
    ),
    "launch.compare": (
        "--engines backprop 1f1b cdni --repeats 3",
        "--engines 1f1b ddp cdni --wan 25,1000",
    ),
    "launch.plan": ("--task mnist-fcn --engines 1f1b cdni --check",),
    "launch.advise": ("--task mnist-fcn --devices 8 --link pcie", "--devices 4 --link wan:50ms,100mbit"),
}
"""Arguments that `--help` shows, by program."""


def parse(cls: type[Config], prog: str, arguments: Sequence[str] | None = None) -> Config:
    """Return `cls` filled from the command line; `--help` prints and exits as usual.

    Raises:
        UserError: in one line, for a bad option or value.
    """
    complaint = io.StringIO()
    try:
        arguments = _with_run_file(cls, prog, sys.argv[1:] if arguments is None else arguments)
        with contextlib.redirect_stderr(complaint), _wide_terminal(arguments):
            default = _of_task(cls, arguments)
            config = tyro.cli(
                cls, prog=prog, args=arguments, default=default, description=_description(cls, prog)
            )
            return cast(Config, config)
    except UserError as error:
        raise UserError(f"{error}; see {prog} --help") from None
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.flush()  # a closed pipe must show here, where it is handled
            raise
        raise UserError(f"{_first_line(complaint.getvalue())}; see {prog} --help") from None


def task_name(arguments: Sequence[str]) -> str | None:
    """Return the value of `--task` alone, which decides what the other options are, or else the task in the
    file of `--config`; None without one.

    Raises:
        UserError: the file is none.
    """
    name, file = _value_of("task", arguments), _value_of("config", arguments)
    if name is None and file:
        in_file = RunFile.read(file).settings.get("task")
        return None if in_file is None else str(in_file)
    return name


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """Return the value of one option, the last one if it is given twice; None without one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{option}", dest="value")
    try:
        return parser.parse_known_args(arguments)[0].value
    except argparse.ArgumentError:  # the option without a value: the full parser says so
        return None


def _with_run_file(cls: type, prog: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments, behind those in the file of `--config` if it is given: the last ones hold."""
    file = _value_of("config", arguments)
    if not file or not issubclass(cls, FlatConfig) or "config" not in cls.option_names():
        return list(arguments)
    return [*RunFile.read(file).arguments(cls, prog), *arguments]


def _of_task(cls: type[Config], arguments: Sequence[str]) -> Config | None:
    """Return `cls` with the defaults of the task that `--task` names; None where there are no others."""
    name = task_name(arguments)
    if name is None or not issubclass(cls, FlatConfig):
        return None
    task = find(name)
    if not issubclass(task, Task):
        return None
    given = ["optimizer"] if any(each.split("=")[0] == "--optimizer" for each in arguments) else []
    defaults = task_defaults(task, cls, given)
    return cls.of(**defaults) if defaults else None


@contextlib.contextmanager
def _wide_terminal(arguments: Sequence[str]) -> Iterator[None]:
    """Keep tyro from breaking its messages into lines; the help still fits the terminal."""
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
    """Return the message in tyro's box, which has no sides where the output is not UTF-8."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    heads = (i for i, line in enumerate(lines) if line.startswith("╭") or set(line) == {"-"})
    below = lines[next(heads, -1) + 1 :]
    first = next((line for line in below if line.strip("─╰╯-")), " ".join(box.split()))
    prefix = "Error parsing "
    if first.startswith(prefix) and not first.startswith(prefix + "-"):
        first = first.split(": ", 1)[-1]
    return first


def _description(cls: type, prog: str) -> str:
    """Return what `--help` shows first: the docstring of the settings, and examples."""
    examples = [f"python -m {prog} {arguments}" for arguments in EXAMPLES.get(prog, ())]
    return "\n\n".join([inspect.cleandoc(cls.__doc__ or ""), *(["Examples:", *examples] if examples else [])])
