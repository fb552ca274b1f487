"""Runs the contestants of a comparison or a sweep in turn, each in a job of its own on this machine.

repeat 1:  every contestant, in order   ─►   repeat 2:  every contestant that has not failed   ─►   ...

OUT/cdni/                       the run of one contestant; with --repeats OUT/cdni-1, OUT/cdni-2, ...
OUT/in-flight=4 wire=int8/cdni  of a sweep
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from dni_async.errors import StageError, UserError
from launch.config.compare import CompareConfig
from launch.config.contestants import Contestant
from launch.config.train import TrainConfig
from launch.config.variant import contestant_label
from launch.engines.registry import find_engine
from launch.job.run_lock import RunLock
from launch.local.finished_run import MARKER, MARKER_TEXT, finished_run, marker_text
from launch.local.launcher import run_local
from launch.local.wan import FarHosts, Wire, far_hosts
from launch.report.comparison_rows import Run
from launch.report.files import prepare_out
from tasks.base import Task
from tasks.registry import create
from workers.failure.errors import AlreadyReported
from workers.failure.rank_runner import RankRunner

_LONGEST = 255
"""Bytes of the name of a folder, in nearly all file systems."""


def run_contestants(
    contestants: Sequence[Contestant],
    out: Path,
    runner: RankRunner,
    *,
    task: Task | None = None,
    goes_on: bool = False,
) -> list[list[Run]]:
    """Return the runs of each contestant, which take turns; their folders were checked before.

    Args:
        task: that all train; by default each the task of its settings.
        goes_on: whether runs that an earlier series has finished in the folder count.
    """
    repeats = contestants[0].config.repeats
    runs: list[list[Run]] = [[] for _ in contestants]
    for repeat in range(repeats):
        for contestant, so_far in zip(contestants, runs, strict=True):
            if any("error" in run for run in so_far):
                continue  # its row is decided
            runner.describe_position = lambda label=contestant.label: f"while {label} ran"  # type: ignore[misc]
            folder = job_folder(contestant, out, repeat)
            finished = finished_run(contestant, folder, repeat) if goes_on else None
            so_far.append(finished or _run(contestant, task, folder, repeat))
    return runs


def check_folders(contestants: Sequence[Contestant], out: Path) -> None:
    """Raise UserError if a folder of a job holds something else than a job of an earlier comparison, or if
    two jobs would have the same."""
    labels: dict[Path, str] = {}
    for contestant in contestants:
        for repeat in range(contestant.config.repeats):
            folder = job_folder(contestant, out, repeat)
            if len(os.fsencode(folder.name)) > _LONGEST:
                raise UserError(
                    f"{folder.name[:60]}... is longer than the {_LONGEST} bytes of a folder's name; "
                    "give what all variants share as options of the command"
                )
            if folder in labels:
                raise UserError(
                    f"{labels[folder]} and {contestant.label} have the same folder, {folder}; leave one out"
                )
            labels[folder] = contestant.label
            check_folder(folder)


def job_folder(contestant: Contestant, out: Path, repeat: int) -> Path:
    """Return the folder of one run of one contestant, such as OUT/cdni or, with --repeats, OUT/cdni-1."""
    parts = [" ".join(f"{name}={value}" for name, value in contestant.setting.items())] * bool(
        contestant.setting
    )
    run = contestant.label if contestant.config.repeats == 1 else f"{contestant.label}-{repeat + 1}"
    return out.joinpath(*(part.replace("/", "_") for part in (*parts, run)))


def _run(contestant: Contestant, task: Task | None, folder: Path, repeat: int) -> Run:
    config = contestant.config
    if contestant.setting and not config.output.quiet:
        print(", ".join(f"{name} {value}" for name, value in contestant.setting.items()), end=" ", flush=True)
    wire = Wire.parse(config.wan) if config.wan else None
    task = task or create(config.task.name, config.task.task_args)
    with far_hosts(config.partition.stages, wire) if wire else nullcontext() as hosts:
        return run_job(contestant.job(folder, repeat), contestant.label, config, task, repeat, hosts)


def run_engine(
    config: CompareConfig, task: Task, engine: str, out: Path, repeat: int, hosts: FarHosts | None = None
) -> Run:
    """Return one run of one engine, in a folder of its own in `out`; see `run_job`."""
    label = contestant_label(engine)
    return run_job(config.job(engine, out / label, repeat), label, config, task, repeat, hosts)


def run_job(
    job: TrainConfig, label: str, config: CompareConfig, task: Task, repeat: int, hosts: FarHosts | None
) -> Run:
    """Return one run of one contestant. A failure becomes its row: it may be bad input for it only."""
    folder = Path(job.output.out)
    if not config.output.quiet:
        processes = find_engine(job.engine).processes_text(job.partition.stages)
        run = f", run {repeat + 1}" if config.repeats > 1 else ""
        print(f"--- {label}, {processes}{run}", flush=True)
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


def check_folder(folder: Path) -> None:
    """Raise UserError if the folder holds anything but a job of an earlier comparison, which has no
    checkpoints."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MARKER).is_file() or (folder / "checkpoints").exists():
        raise UserError(f"{folder} is not of an earlier comparison; choose another --out")


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
