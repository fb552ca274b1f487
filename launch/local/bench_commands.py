"""Runs the commands of a section of the benchmarks, and keeps what they measured."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dni_async.errors import StageError
from launch.report.bench_document import RECORD, about, shown
from launch.report.bench_sections import Section
from launch.report.files import prepare_out, write_json
from workers.failure.errors import StdoutClosed

KEPT = ("compare.json", "plan.json", "latency.json", "windows.json")
"""Results that are kept beside the tables, for whoever wants every run's number."""
LONGEST = 4 * 3600.0
"""Seconds after which a command is taken to hang; the whole suite takes less. One that takes days may take
four times its estimate."""


def measure(section: Section, folder: Path) -> None:
    """Run the section's commands; keep table, data and pictures of each in `folder` when it is done.

    The first result replaces what an earlier measurement of the section left.
    """
    longest = max(LONGEST, 4 * 60.0 * section.minutes)
    done: list[dict[str, str]] = []
    for number, command in enumerate(section.commands):
        with tempfile.TemporaryDirectory(prefix="dni_async-bench-") as scratch:
            done.append(run(command, Path(scratch) / "out", longest))
            if number == 0:
                prepare_out(folder)
                for each in range(len(section.commands)):
                    for _, stale in kept_files(section, folder, each):
                        stale.unlink(missing_ok=True)
            for file, kept in kept_files(section, folder, number):
                if (Path(scratch) / "out" / file).exists():
                    shutil.copyfile(Path(scratch) / "out" / file, kept)
        write_json(folder / RECORD, about() | {"done": done})


def kept_files(section: Section, folder: Path, number: int) -> Iterator[tuple[Path, Path]]:
    """Yield each file that is kept of command number `number`, and its path in `folder`."""
    suffix = "" if number == 0 else f"-{number + 1}"
    for file in map(Path, (*KEPT, *section.pictures)):
        yield file, folder / f"{file.stem}{suffix}{file.suffix}"


def run(command: str, out: Path, longest: float = LONGEST) -> dict[str, str]:
    """One command to its end, and the tables that it wrote. Raises StageError when it fails, and StdoutClosed
    when that was all."""
    module, *arguments = shlex.split(command)
    print(f"    {shown(command)}", flush=True)
    arguments = [sys.executable, "-m", f"launch.{module}", *arguments, "--out", str(out)]
    try:
        status = subprocess.run(arguments, timeout=longest).returncode
    except subprocess.TimeoutExpired:
        raise StageError(f"{shown(command)} had not ended after {longest:g} s") from None
    if status == StdoutClosed.status:
        raise StdoutClosed
    if status:
        raise StageError(f"{shown(command)} failed with exit status {status}; its reason stands above")
    return {"command": shown(command), "table": (out / f"{module}.md").read_text()}
