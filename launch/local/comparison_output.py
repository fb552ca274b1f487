"""The output folder of a comparison and of a sweep: checked at the start, written and shown at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dni_async.errors import StageError, UserError
from launch.config.compare import CompareConfig
from launch.config.contestants import Contestant
from launch.config.run_file import write_run_file
from launch.job.output_folder import SUMMARY
from launch.job.run_lock import RunLock
from launch.local.comparison import check_folders
from launch.report.comparison_rows import Row, Run
from launch.report.files import prepare_out, write_results
from launch.report.grid import Grid, show
from launch.report.page.write import REPORT, write_comparison_report
from tasks.base import Task


@contextmanager
def comparison_folder(config: CompareConfig, name: str, contestants: Sequence[Contestant]) -> Iterator[Path]:
    """Yield the folder of --out, or a temporary one, which no other run uses until the end of the block. It
    gets config.yaml.

    Raises:
        UserError: the folder is in use, or has the results of a training run, or a folder of a job in it
            holds something else.
    """
    out = prepare_out(config.output.out or tempfile.mkdtemp(prefix=f"dni_async-{name}-"))
    with RunLock(out):
        if (out / SUMMARY).is_file() or (out / "checkpoints").exists():
            raise UserError(f"{out} has the results of a training run; choose another --out")
        check_folders(contestants, out)
        write_run_file(out, name, config)
        yield out


def write_comparison(
    config: CompareConfig,
    task: Task,
    title: str,
    rows: list[Row],
    grids: Sequence[Grid],
    path: Path,
    plot: Callable[[list[Row], Path, str, str], None],
) -> None:
    """Write the files `path`.json, .md and .png and report.html, and show the tables.

    Args:
        plot: draws the picture from (rows, path, title, name of the metric).
    """
    out = path.parent
    about = {"title": title, "task": task.name, "metric_name": task.metric_name}
    write_results(out, path.name, about | {"settings": config.as_json(), "rows": rows}, grids)
    plot(rows, path.with_suffix(".png"), title, task.metric_name)
    if not config.output.quiet:
        for grid in grids:
            show(grid)
            print()
        print(f"written to {out}")
    if config.output.report and write_comparison_report(out, title, grids) and not config.output.quiet:
        print(f"open {out / REPORT} in a browser")


def check_somebody_finished(runs: Mapping[str, Sequence[Run]]) -> None:
    """Raise UserError if the input was bad for every engine, StageError if all failed otherwise."""
    failures = _failures(runs)
    if len(failures) < len(runs):
        return
    reasons = {run["error"]: engine for engine, run in failures.items()}
    reported = "; ".join(f"{engine}: {reason}" for reason, engine in reasons.items())
    raise _error(failures, next(iter(reasons)) if len(reasons) == 1 else f"every engine failed: {reported}")


def check_all_finished(runs: Mapping[str, Sequence[Run]]) -> None:
    """Raise UserError or StageError if an engine failed whose row says why; the tables were shown before."""
    if failures := _failures(runs):
        raise _error(failures, f"failed: {', '.join(failures)}; the table says why")


def _failures(runs: Mapping[str, Sequence[Run]]) -> dict[str, Run]:
    return {engine: run for engine, many in runs.items() for run in many if "error" in run}


def _error(failures: Mapping[str, Run], line: str) -> StageError | UserError:
    bad_input = all(run["status"] == 2 for run in failures.values())
    return (UserError if bad_input else StageError)(line)
