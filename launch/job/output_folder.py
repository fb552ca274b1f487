"""What runs leave in an output folder, and what a new run does about an earlier one.

the folder holds                         a new run    --resume               --overwrite
nothing, or what a failed run left       clears it    begins                 clears it
checkpoints                              is refused   goes on from newest    clears it
checkpoints and the results of its end   is refused   is refused             clears it
summary.json of a run, no checkpoints    is refused   is refused             clears it

A run that goes on removes the results of the end, too: it writes its own. Nothing else is ever removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from dni_async.errors import UserError
from launch.config.run_file import RUN_FILE
from workers.checkpoint.atomic_file import write_whole
from workers.checkpoint.store import CheckpointStore

SUMMARY = "summary.json"
RESULTS = (
    SUMMARY,
    "timeline.json",
    "timeline.png",
    "curves.png",
    "report.html",
    "weights/stage-*.safetensors",
    "model/model.json",
    "model/model.safetensors",
)
"""Files that runs write at their end."""
METRICS, PROGRESS = "metrics.jsonl", "reached.json"
"""Files that runs write while they train, beside config.yaml, which they write when they begin."""
PROFILES = "profile"
"""Folder of the traces of single ranks."""
RECORDS = ("metrics.csv", "tensorboard/events.out.tfevents.*", f"{PROFILES}/rank-*.json")
"""Files of the loggers and of the profiler."""
FILES = "files"
"""Folder of the files that belong to the network (see `Task.files`), which runs write when they begin."""
EXPORTED = "model.safetensors"
"""What launch.export makes of a run."""


def check_unused(out: Path, *, resume: bool = False) -> None:
    """Raise UserError if the folder has an earlier run that a new one would overwrite.

    Args:
        resume: whether the new one was to go on with it.
    """
    checkpoints = CheckpointStore(out)
    if steps := checkpoints.steps():
        raise UserError(
            f"{checkpoints.folder} has a checkpoint of step {steps[-1]} of an earlier run; go on with it by "
            "--resume, remove it by --overwrite, or choose another --out"
        )
    if (out / SUMMARY).is_file():
        if resume:
            raise UserError(
                f"{out} has the results of a run without checkpoints (--checkpoint-every), which cannot be "
                "resumed; start from its weights by launch.export and --init, in another --out"
            )
        raise UserError(
            f"{out} has the results of an earlier run; remove them by --overwrite, or choose another --out"
        )


def check_unfinished(out: Path, step: int, ended_by: str | None) -> None:
    """Raise UserError if the run in the folder has trained to its end and written its results.

    Args:
        step: that it has come to.
        ended_by: the option that ends it there, such as "epochs"; None if there is more to train.
    """
    if ended_by and (out / SUMMARY).is_file():
        raise UserError(
            f"the run in {out} is finished (step {step}); raise --{ended_by} to train on, or choose another "
            "--out"
        )


def remove_results(out: Path) -> None:
    """Remove what an earlier run wrote at its end, before a run goes on with it."""
    _remove(out, *RESULTS)


def clear(out: Path, *, overwrite: bool) -> None:
    """Remove what an earlier run left, before another begins.

    Args:
        overwrite: whether there may be a finished run, whose exported weights are removed, too.
    """
    own = (*RESULTS, *RECORDS, METRICS, PROGRESS, RUN_FILE, f"{FILES}/*")
    _remove(out, *own, *([EXPORTED] if overwrite else []))
    CheckpointStore(out).clear()
    for folder in ("weights", "model", "tensorboard", PROFILES, FILES):
        with contextlib.suppress(OSError):  # it is not there, or holds something else
            (out / folder).rmdir()


def save_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of the task, by name, into the folder `FILES`.

    Raises:
        UserError: a resumed run has others, or they cannot be written.
    """
    for name, content in files.items():
        path = out / FILES / name
        try:
            if path.exists() and path.read_bytes() != content:
                raise UserError(
                    f"{path} is not what the data and settings of this run give; put those back that it was "
                    "made from, or choose another --out"
                )
            path.parent.mkdir(exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); choose another --out") from error


def _remove(out: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in out.glob(pattern):
            if not path.is_dir():
                path.unlink(missing_ok=True)
