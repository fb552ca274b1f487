"""Rules and window lengths side by side on one task over time.

python -m launch.windows --task copy --windows 2 4 8 --rules bptt dni --repeats 3 --out runs/w
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from launch.config.command_line import parse
from launch.config.recurrent import WindowsConfig
from launch.config.run_file import write_run_file
from launch.recurrent.train import run_sequences
from launch.report.files import prepare_out, write_results
from launch.report.grid import show
from launch.report.window_tables import Result, grids, result_of
from workers.failure.rank_runner import RankRunner, run_command


def work(runner: RankRunner) -> None:
    """Run all jobs; tables and data are rewritten after each, so that a long series may be stopped."""
    config = parse(WindowsConfig, "launch.windows")
    out = prepare_out(config.output.out or tempfile.mkdtemp(prefix="dni_async-windows-"))
    write_run_file(out, "windows", config)
    results: list[Result] = []
    for job in config.jobs():
        results.append(result_of(run_sequences(runner, job)))
        if not config.output.quiet:
            print(results[-1].line(), flush=True)
        write(config, results, out)
    if not config.output.quiet:
        for grid in grids(results):
            show(grid)
            print()
        print(f"written to {out}")


def write(config: WindowsConfig, results: list[Result], out: Path) -> None:
    """Write the results of the runs so far to windows.json, and their tables to windows.md."""
    data = {"settings": config.as_json(), "runs": [asdict(run) for run in results]}
    write_results(out, "windows", data, grids(results))


if __name__ == "__main__":
    run_command(work)
