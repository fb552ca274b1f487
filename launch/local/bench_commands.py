"""Runs the commands of a section of the benchmarks, and keeps what they measured."""

from __future__ import annotations

import contextlib
import itertools
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dni_async.errors import StageError
from launch.report.bench_document import RECORD, about, shown
from launch.report.bench_sections import Section
from launch.report.files import prepare_out, write_json
from workers.failure.errors import StdoutClosed

KEPT = ("compare.json", "plan.json", "latency.json", "windows.json", "sweep.json", "study.json")
"""Results that are kept beside the tables, for whoever wants every run's number."""
LONGEST = 4 * 3600.0
"""Seconds after which a command is taken to hang; the whole suite takes less. One that takes days may take
four times its estimate."""


def measure(section: Section, folder: Path, resume: bool = False) -> None:
    """Run the section's commands; keep table, data and pictures of each in `folder` when it is done.

    The first result replaces what an earlier measurement of the section left.

    Args:
        resume: go on behind the commands that an earlier measurement has done, with what its last one left.
    """
    longest = max(LONGEST, 4 * 60.0 * section.minutes)
    done = done_before(section, folder) if resume else []
    for number, command in list(enumerate(section.commands))[len(done) :]:
        out = folder / "unfinished" / str(number)
        if not resume:
            shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            done.append(run(command, out, longest) | {"about": about()})
        finally:
            with contextlib.suppress(OSError):
                out.parent.rmdir()  # if nothing has been left there to go on with
        if number == 0:
            prepare_out(folder)
            for each in range(len(section.commands)):
                for _, stale in kept_files(section, folder, each):
                    stale.unlink(missing_ok=True)
        for file, kept in kept_files(section, folder, number):
            if (out / file).exists():
                shutil.copyfile(out / file, kept)
        write_json(folder / RECORD, {"done": done})
        shutil.rmtree(out.parent, ignore_errors=True)


def done_before(section: Section, folder: Path) -> list[dict[str, Any]]:
    """Return what an earlier measurement has done of the section's commands, up to the first that differs."""
    path = folder / RECORD
    record = json.loads(path.read_text()) if path.exists() else {"done": []}
    same_for_all = {
        key: value for key, value in record.items() if key != "done"
    }  # of earlier versions' records
    earlier = [{"about": same_for_all} | result for result in record["done"]]
    pairs = zip(earlier, section.commands, strict=False)
    return [result for result, _ in itertools.takewhile(lambda p: p[0]["command"] == shown(p[1]), pairs)]


def kept_files(section: Section, folder: Path, number: int) -> Iterator[tuple[Path, Path]]:
    """Yield each file that is kept of command number `number`, and its path in `folder`."""
    suffix = "" if number == 0 else f"-{number + 1}"
    for file in map(Path, (*KEPT, *section.pictures)):
        yield file, folder / f"{file.stem}{suffix}{file.suffix}"


def run(command: str, out: Path, longest: float = LONGEST) -> dict[str, Any]:
    """Run a command to its end, and return it with the tables that it wrote.

    Raises:
        StageError: it failed, or took longer than `longest` seconds.
        StdoutClosed: it ended because nobody reads the output any more.
    """
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
