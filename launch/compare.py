"""Engines side by side on one task, each in a job of its own.

python -m launch.compare --task mnist-fcn --engines backprop dni cdni --stages 2 --out runs/b
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from dni_async.errors import StageError, UserError
from launch.cli import parse
from launch.config import CompareConfig
from launch.files import prepare_out, write_json
from launch.local import run_local
from launch.tables import compare_grid, markdown, show
from tasks.base import Task
from tasks.registry import create
from workers.supervise import Guard, Told, leave

Run = dict[str, Any]
"""A summary, or {"error": reason}."""


def work(guard: Guard) -> None:
    """Run the contestants in turn, then write the table, the data and the picture."""
    config = parse(CompareConfig, "launch.compare")
    task = create(config.task, config.task_args)
    out = prepare_out(config.out or tempfile.mkdtemp(prefix="dni_async-compare-"))
    runs: dict[str, list[Run]] = {engine: [] for engine in config.engines}
    for repeat in range(config.repeats):
        for engine in config.engines:
            guard.where = lambda engine=engine: f"while {engine} ran"  # type: ignore[misc]
            runs[engine].append(run_engine(config, task, engine, out, repeat))
    rows = make_rows(config, runs)
    write(rows, runs, task, out)
    if not config.quiet:
        show(compare_grid(rows, task.metric_name, title(task, runs)))
        print(f"written to {out}")
    if all("error" in row for row in rows):
        raise StageError("every engine failed; the reasons stand above")


def run_engine(config: CompareConfig, task: Task, engine: str, out: Path, repeat: int) -> Run:
    """One run of one contestant. A failure becomes its row; bad input ends the comparison."""
    folder = out / (engine if config.repeats == 1 else f"{engine}-{repeat + 1}")
    job = config.job(engine, folder)
    if not config.quiet:
        stages = f"{job.stages} stages" if job.stages > 1 else "1 process"
        print(f"--- {engine}, {stages}" + (f", run {repeat + 1}" if config.repeats > 1 else ""), flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        run_local(job, task)
    except Told as failure:
        if failure.status > 2:
            raise
        return {"error": str(failure), "stages": [None] * job.stages}
    except (StageError, UserError) as failure:
        return {"error": str(failure), "stages": [None] * job.stages}
    return json.loads((folder / "summary.json").read_text())


def make_rows(config: CompareConfig, runs: dict[str, list[Run]]) -> list[dict[str, Any]]:
    """One row per engine: medians over its runs, speed-up over backprop's median."""
    rows = [make_row(engine, runs[engine]) for engine in config.engines]
    base = next((row.get("samples_per_s") for row in rows if row["engine"] == "backprop"), None)
    for row in rows:
        speed = row.get("samples_per_s")
        row["speedup"] = speed / base if base and speed else None
    return rows


def make_row(engine: str, runs: list[Run]) -> dict[str, Any]:
    """Medians over the runs of one engine, or the reason why one failed."""
    failed = next((run for run in runs if "error" in run), None)
    if failed:
        return {"engine": engine, "stages": len(failed["stages"]), "error": failed["error"]}

    def median(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    stages = range(len(runs[0]["stages"]))
    return {
        "engine": engine,
        "stages": len(stages),
        "samples_per_s": median([run["samples_per_s"] for run in runs]),
        "samples_per_s_runs": [run["samples_per_s"] for run in runs],
        "utilisation": [median([run["stages"][i]["utilisation"] for run in runs]) for i in stages],
        "test_accuracy": median([run["final"]["test_accuracy"] for run in runs]),
        "train_s": median([run["train_s"] for run in runs]),
        "peak_rss_bytes": [max(run["stages"][i]["peak_rss_bytes"] for run in runs) for i in stages],
    }


def title(task: Task, runs: dict[str, list[Run]]) -> str:
    """What was compared, and on which data."""
    done = next((run for many in runs.values() for run in many if "dataset" in run), None)
    data = f", {done['dataset']['train']:,} training samples" if done else ""
    return f"{task.name}{data}"


def write(rows: list[dict[str, Any]], runs: dict[str, list[Run]], task: Task, out: Path) -> None:
    """compare.json, compare.md and compare.png."""
    write_json(out / "compare.json", {"task": task.name, "metric_name": task.metric_name, "rows": rows})
    (out / "compare.md").write_text(markdown(compare_grid(rows, task.metric_name, title(task, runs))))
    with_summaries = [row | {"summary": runs[row["engine"]][0]} for row in rows if "error" not in row]
    if with_summaries:
        from launch.plots import plot_compare  # matplotlib: a second that --help and errors do not need

        plot_compare(with_summaries, out / "compare.png")


def main() -> None:
    """Exit status 0; 2 for bad input; 1 when every engine failed; 130 or 143 when it was stopped."""
    if "--help" in sys.argv or "-h" in sys.argv:
        parse(CompareConfig, "launch.compare")
    leave(Guard().run(work))


if __name__ == "__main__":
    main()
