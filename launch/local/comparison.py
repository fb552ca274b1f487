"""Runs the contestants of a comparison in turn, each in a job of its own on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dni_async.errors import StageError, UserError
from launch.config.compare import CompareConfig, contestant_label
from launch.engines.registry import find_engine
from launch.job.run_lock import RunLock
from launch.local.launcher import run_local
from launch.local.wan import FarHosts
from launch.report.comparison_rows import Run
from launch.report.files import prepare_out
from tasks.base import Task
from workers.failure.errors import AlreadyReported
from workers.failure.rank_runner import RankRunner

MARKER = "comparison.txt"
"""Name of a file in the folder of each job of a comparison. Only such a folder is emptied for a new job."""
MARKER_TEXT = "A comparison made this folder, and empties it when it runs again with the same --out.\n"
"""Content of that file; `marker_text` adds what the settings of the job do not have."""


def run_engines(
    config: CompareConfig, task: Task, out: Path, runner: RankRunner, hosts: FarHosts | None
) -> dict[str, list[Run]]:
    """All runs in turn, by the contestants' labels.

    Raises:
        UserError: a folder of a job holds something else; nothing has been run then.
    """
    for repeat in range(config.repeats):
        for engine in config.engines:
            check_folder(job_folder(config, engine, out, repeat))
    runs: dict[str, list[Run]] = {engine: [] for engine in config.engines}
    for repeat in range(config.repeats):
        for engine, so_far in runs.items():
            if any("error" in run for run in so_far):
                continue  # its row is decided
            runner.describe_position = lambda engine=engine: f"while {engine} ran"  # type: ignore[misc]
            so_far.append(run_engine(config, task, engine, out, repeat, hosts))
    return {contestant_label(engine): many for engine, many in runs.items()}


def run_engine(
    config: CompareConfig, task: Task, engine: str, out: Path, repeat: int, hosts: FarHosts | None = None
) -> Run:
    """One run of one contestant. A failure becomes its row: it may be bad input for this engine only."""
    folder = job_folder(config, engine, out, repeat)
    job = config.job(engine, folder, repeat)
    if not config.output.quiet:
        processes = find_engine(job.engine).processes_text(job.partition.stages)
        run = f", run {repeat + 1}" if config.repeats > 1 else ""
        print(f"--- {contestant_label(engine)}, {processes}{run}", flush=True)
    make_folder(folder, marker_text(config))
    try:
        run_local(job, task, hosts)
    except AlreadyReported as failure:
        if failure.status > 2:
            raise
        return {"error": str(failure), "status": failure.status, "stages": job.partition.stages}
    except (StageError, UserError) as failure:
        status = 2 if isinstance(failure, UserError) else 1
        return {"error": str(failure), "status": status, "stages": job.partition.stages}
    return json.loads((folder / "summary.json").read_text())


def job_folder(config: CompareConfig, engine: str, out: Path, repeat: int) -> Path:
    """Return the folder of one run of one contestant, such as OUT/cdni or, with --repeats, OUT/cdni-1."""
    name = contestant_label(engine)
    return out / (name if config.repeats == 1 else f"{name}-{repeat + 1}")


def check_folder(folder: Path) -> None:
    """Raise UserError if the folder holds anything but a job of an earlier comparison, which has no
    checkpoints."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MARKER).is_file() or (folder / "checkpoints").exists():
        raise UserError(f"{folder} is not of an earlier comparison; choose another --out")


def marker_text(config: CompareConfig) -> str:
    """Return what the file in the folder of a job says, with the wire between its hosts if it has one."""
    return MARKER_TEXT + (f"wan {config.wan}\n" if config.wan else "")


def make_folder(folder: Path, marker: str = MARKER_TEXT) -> None:
    """Make the empty folder of a job, in place of that of an earlier comparison.

    Raises:
        UserError: as `check_folder`, or a job is running in the folder.
    """
    check_folder(folder)
    if (folder / MARKER).exists():
        with RunLock(folder):
            shutil.rmtree(folder)
    (prepare_out(folder) / MARKER).write_text(marker)
