"""Runs the commands of a section of the benchmarks, and keeps what they measured."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
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
    """Run the section's commands; keep their tables, data and pictures in `folder` when all are done."""
    with tempfile.TemporaryDirectory(prefix="dni_async-bench-") as name:
        scratch = Path(name)
        longest = max(LONGEST, 4 * 60.0 * section.minutes)
        done = [run(command, scratch / str(i), longest) for i, command in enumerate(section.commands)]
        prepare_out(folder)
        for number in range(len(done)):
            keep(section, scratch / str(number), folder, "" if number == 0 else f"-{number + 1}")
    write_json(folder / RECORD, about() | {"done": done})


def keep(section: Section, out: Path, folder: Path, suffix: str) -> None:
    """A command's data and pictures, their names made its own by `suffix`."""
    for file in map(Path, (*KEPT, *section.pictures)):
        if (out / file).exists():
            shutil.copyfile(out / file, folder / f"{file.stem}{suffix}{file.suffix}")


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
