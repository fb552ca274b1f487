"""The end of a job: every rank writes its weights, then rank 0 the other files and the table.

rank 0   weights ─ wait for the weights of all ranks ─ files, summary.json last ─ table
rank i   weights ─ if they could not be written: wait for the table

A folder with summary.json therefore holds all that a run leaves: without the weights of all ranks rank 0 does
not write it, and --resume writes the results again. `output_folder` removes what an earlier run left.
"""

from __future__ import annotations

import contextlib

from torch import nn

from dni_async.errors import Late, StageError
from launch.engines.registry import find_engine
from launch.job.context import RankContext
from launch.report.files import collect_failure
from launch.report.grid import show
from launch.report.recorder import Recorder
from launch.report.run_table import run_grid
from launch.report.weights import save_part

WEIGHTS = "weights"
"""Key under which every rank publishes whether it has written its weights."""
FINISHED = "finished"
"""Key under which rank 0 publishes that it has written its files and shown the table."""
FINISH_TIMEOUT_S = 60.0
"""Seconds that a rank waits for the files of all others; `--timeout` if that is longer."""


def save_results(context: RankContext, recorder: Recorder | None, layers: nn.Module | None) -> None:
    """Write what this rank leaves of the run in --out, and on rank 0 show the table.

    Args:
        recorder: on rank 0.
        layers: those whose weights this rank writes.

    Raises:
        StageError: a file could not be written. All others are, but for summary.json where weights are
            missing, and rank 0 has shown its table.
        Late: a rank did not write its weights in time; there is no summary.json then.
    """
    rendezvous = context.rendezvous
    timeout = max(FINISH_TIMEOUT_S, context.config.runtime.timeout)
    problems = _save_weights(context, layers)
    rendezvous.publish(f"{WEIGHTS}/{rendezvous.rank}", not problems)
    if recorder:
        written = rendezvous.read_all([f"{WEIGHTS}/{rank}" for rank in range(rendezvous.world)], timeout)
        problems += recorder.write_files(whole=all(written))
        if not context.config.output.quiet:  # its notes were shown at the start
            show(run_grid(recorder.summary | {"notes": recorder.record.warnings}))
        rendezvous.publish(FINISHED, True)
        if all(written) and not problems:
            _describe_end(context, recorder)
        recorder.close_loggers()
    elif problems:  # the launcher ends all ranks with the first that fails: let rank 0 show its table
        with contextlib.suppress(Late, StageError):
            rendezvous.read(FINISHED, timeout)
    if problems:
        raise StageError(f"{problems[0]}; correct this or choose another --out, and train again")


def _describe_end(context: RankContext, recorder: Recorder) -> None:
    """Say what a signal has left, or that a signal came too late to change anything."""
    interruption, steps = context.runner.interruption, recorder.summary["stages"][0]["steps"]
    if "interrupted" in recorder.summary:
        interruption.outcome = f"after step {steps}; weights, summary.json and pictures are in {context.out}"
    else:
        interruption.finished = True


def _save_weights(context: RankContext, layers: nn.Module | None) -> list[str]:
    """Write this rank's part of the weights; return a line if it could not be written."""
    problems: list[str] = []
    if context.out is None or layers is None:
        return problems
    cut = find_engine(context.config.engine).cut
    with collect_failure(problems, context.out / "weights"):
        save_part(context.out, context.index, context.plan.bounds[context.index][0] if cut else 0, layers)
    return problems
