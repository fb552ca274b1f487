"""Runs whose disk is too small: a file that cannot be written is named in one line, and the rest is kept.

    python -m tests.campaigns.full_disk

`--out` is a tmpfs of few kilobytes, so that the disk fills up at another place in every case: in a checkpoint
(training goes on and says so once), in the weights, the pictures or the summary (status 1). Needs root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.report import Report, known_faults
from tests.support.jobs import TINY, run

CASE_TIMEOUT_S = 200.0
CHECKPOINTS = ("--checkpoint-every", "5")
WIDE = ("--task-args", "depth=3", "width=256")
"""About 400 KB of weights, and more than 900 KB with the state of the optimizer."""


@dataclass(frozen=True, slots=True)
class Case:
    """A disk and what is run on it."""

    kilobytes: int
    options: tuple[str, ...]
    stages: int = 2
    starts: int = 1
    """How often the job starts: with restarts, it tries again to write what does not fit."""


CASES: dict[str, Case] = {
    "checkpoints and weights do not fit": Case(900, (*WIDE, *CHECKPOINTS)),
    "the same under supervision": Case(900, (*WIDE, *CHECKPOINTS, "--supervise")),
    "the same with restarts": Case(900, (*WIDE, *CHECKPOINTS, "--max-restarts", "2"), starts=3),
    "the same in one process": Case(900, (*WIDE, *CHECKPOINTS), stages=1),
    "everything fits": Case(900, ()),
    "pictures do not fit": Case(64, ()),
    "pictures do not fit, one process": Case(64, (), stages=1),
    "nothing fits": Case(8, ()),
}
SHORT = ("checkpoints and weights do not fit",)
KNOWN_FAULTS = known_faults({}, CASES)
"""Cases that end otherwise, and why; a case that is mended must leave."""


def skip_reason() -> str:
    """Return why this machine cannot run the campaign; "" when it can."""
    if os.geteuid() or shutil.which("mount") is None:
        return "only root can mount a small disk"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder), 64):
                return ""
        except subprocess.CalledProcessError:
            return "this machine mounts no tmpfs"


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Mount a disk of so many kilobytes on a folder, until the end of the block."""
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def problem(case: Case, folder: Path) -> str:
    """Train on a small disk; return what is wrong with the end, "" when nothing is."""
    out = folder / "run"
    out.mkdir()
    stages = ("--stages", str(case.stages))
    options = (*TINY, "--epochs", "2", *stages, "--out", str(out), *case.options)
    with small_disk(out, case.kilobytes):
        try:
            done = run("launch.train", *options, timeout=CASE_TIMEOUT_S)
        except AssertionError as error:
            return str(error)
        left = [path.name for path in out.rglob("*") if path.name.startswith((".", "tmp"))]
        full = shutil.disk_usage(out).free < case.kilobytes * 1024 / 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    strange = [line for line in lines if "Traceback" in line or "Error:" in line or line.startswith("  File")]
    if strange or left:
        return f"status {done.returncode}, {strange[:3]}, temporary files {left}"
    if done.returncode == 0:
        return "" if "test accuracy" in done.stdout or "stage" in done.stdout else "no table is shown"
    last = lines[-1] if lines else ""
    if done.returncode not in (1, 2) or not last.startswith("dni-async: ") or str(out) not in last:
        return f"status {done.returncode}, full {full}: {done.stderr[-500:]}"
    errors = [line for line in lines if line.startswith("dni-async: ") and "No space left" in line]
    if "No space left" not in done.stderr:
        return f"the reason is missing: {done.stderr[-300:]}"
    return "" if len(errors) <= 2 * case.starts else f"{len(errors)} lines: {errors}"


def campaign(cases: Mapping[str, Case], folder: Path) -> Report:
    """Try every disk; a known fault that is mended is a problem, too."""
    report = Report()
    for name, case in cases.items():
        place = folder / str(report.cases)
        place.mkdir()
        report.add(name, problem(case, place), KNOWN_FAULTS.get(name, ""))
    return report


def main() -> int:
    argparse.ArgumentParser(prog="tests.campaigns.full_disk").parse_args()
    if reason := skip_reason():
        print(f"dni-async: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        return campaign(CASES, Path(folder)).show()


if __name__ == "__main__":
    sys.exit(main())
