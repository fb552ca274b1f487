"""Checks everything on a GPU, and measures it, in less than ten minutes.

python -m launch.gpu_check                 on one GPU; results in docs/benchmarks/gpu, or in $OUT
python -m launch.gpu_check --dry-run-cpu   the same with tiny networks on the CPU: does the script work?

Each check has a process and a time limit of its own, so that none stops the others; when the time is up, the
rest is left out.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dni_async.errors import StageError, UserError
from launch.config.checks import positive
from launch.config.command_line import parse
from launch.local.gpu_checks import CHECKS, Setting
from launch.report.files import prepare_out, write_json
from launch.report.metadata import hardware, versions
from workers.failure.errors import format_error
from workers.failure.rank_runner import RankRunner, run_command

LEAST_S = 15.0
"""With less than this left, no further check is begun."""

DRY_RUN_S = 600.0
"""For a check on the CPU, which may be busy with other things."""


@dataclass(kw_only=True, slots=True)
class GpuCheckConfig:
    """Check everything on a GPU, and measure it."""

    only: tuple[str, ...] = ()
    """Checks to run (by default all)."""
    minutes: float = 9.0
    """After which no check runs any more."""
    out: str = ""
    """Folder for the results; by default that of the environment variable OUT, else docs/benchmarks/gpu."""
    dry_run_cpu: bool = False
    """Run the same checks on the CPU, with tiny networks and without haste: shows that the script works."""
    one: str = ""
    """Run this check in this process, as the script itself does."""

    def __post_init__(self) -> None:
        for name in (*self.only, *([self.one] if self.one else [])):
            if name not in CHECKS:
                raise UserError(f"unknown check ({name}); use some of {', '.join(CHECKS)}")
        positive(minutes=self.minutes)


def work(runner: RankRunner) -> None:
    """Run the checks one after the other; print a line for each, and write a file for each."""
    config = parse(GpuCheckConfig, "launch.gpu_check")
    if not (config.dry_run_cpu or torch.cuda.is_available()):
        raise UserError("torch sees no GPU here; --dry-run-cpu tries the script itself on the CPU")
    out = prepare_out(config.out or os.environ.get("OUT", "") or "docs/benchmarks/gpu")
    if config.one:
        run_one(config, out)
        return
    haste = not config.dry_run_cpu
    end = time.monotonic() + (60 * config.minutes if haste else math.inf)
    results = {}
    for name in config.only or CHECKS:
        runner.describe_position = lambda name=name: f"while {name} was checked"  # type: ignore[misc]
        seconds = min(CHECKS[name][1] if haste else DRY_RUN_S, end - time.monotonic())
        if seconds < LEAST_S:
            results[name] = {"status": "left out", "reason": "no time was left"}
        else:
            results[name] = check(config, name, seconds, out)
        print(line(name, results[name]), flush=True)
        about = {"hardware": hardware(), "versions": versions(), "dry_run": config.dry_run_cpu}
        write_json(out / "checks.json", about | {"checks": results})
    if failed := [name for name, result in results.items() if result["status"] == "failed"]:
        raise StageError(f"checks that failed: {', '.join(failed)}; the reasons stand above")


def check(config: GpuCheckConfig, name: str, seconds: float, out: Path) -> dict[str, Any]:
    """Run a check in a process of its own, with all processes that it starts, for at most so many seconds."""
    result = out / f"{name}.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "launch.gpu_check", "--one", name, "--out", str(out)]
    command += ["--dry-run-cpu"] if config.dry_run_cpu else []
    begun = time.monotonic()
    with open(out / f"{name}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            status = process.wait(seconds)
            found = json.loads(result.read_text()) if result.exists() else {"status": "failed"}
            if "reason" not in found and found["status"] == "failed":
                found["reason"] = f"it ended with status {status}; see {name}.log"
        except subprocess.TimeoutExpired:
            found = {"status": "failed", "reason": f"it had not ended after {seconds:.0f} s"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found["check_s"] = round(time.monotonic() - begun, 1)
    return found


def run_one(config: GpuCheckConfig, out: Path) -> None:
    """Run one check in this process, and write what it found or why it failed."""
    setting = Setting("cpu" if config.dry_run_cpu else "cuda", out / "runs" / config.one)
    shutil.rmtree(setting.folder, ignore_errors=True)
    setting.folder.mkdir(parents=True)
    try:
        found = {"status": "ok"} | CHECKS[config.one][0](setting)
    except Exception as error:
        left_out = str(error).startswith("left out")
        status = "left out" if left_out else "failed"
        found = {"status": status, "reason": format_error(error).removeprefix("left out: ")}
    write_json(out / f"{config.one}.json", found)


def line(name: str, result: dict[str, Any]) -> str:
    """Return the line of a check."""
    seconds = f"{result['check_s']:6.1f} s" if "check_s" in result else " " * 8
    return f"{result['status']:8}  {name:10} {seconds}  {_detail(result)}".rstrip()


def _detail(result: dict[str, Any]) -> str:
    if "reason" in result:
        return str(result["reason"])
    if "rows" in result:
        speeds = [(row["engine"], row.get("samples_per_s")) for row in result["rows"]]
        return ", ".join(f"{name} {speed:,.0f}/s" if speed else f"{name} failed" for name, speed in speeds)
    shown = {key: value for key, value in result.items() if key not in ("status", "check_s")}
    return ", ".join(f"{key} {value}" for key, value in shown.items())[:150]


if __name__ == "__main__":
    run_command(work)
