"""One page over runs and comparisons that have ended, or an animation of them.

python -m launch.report runs/*                     report.html in runs/
python -m launch.report runs/a --out a.html
python -m launch.report runs/cdni runs/1f1b --animate --out unlocking.svg
"""

from __future__ import annotations

import os
from pathlib import Path

from dni_async.errors import UserError
from launch.config.command_line import parse
from launch.config.report import REPORT, ReportConfig
from launch.report.animation.of_runs import animation
from launch.report.page.collect import find_runs, read_comparison
from launch.report.page.commands import commands_of_comparison
from launch.report.page.document import make_page
from launch.report.page.tables import runs_grid
from launch.report.run_table import run_grid
from workers.checkpoint.atomic_file import write_whole
from workers.failure.rank_runner import RankRunner, run_command

ANIMATION = "unlocking.svg"


def work(runner: RankRunner) -> None:
    """Read the runs and write the page."""
    config = parse(ReportConfig, "launch.report")
    folders = [Path(run) for run in config.runs]
    folders = [folder for folder in folders if len(folders) == 1 or _has_results(folder)]
    path = (
        Path(config.out)
        if config.out
        else _common_folder(folders) / (ANIMATION if config.animate else REPORT)
    )
    content = animation(find_runs(folders)) if config.animate else page(folders)
    try:
        write_whole(path, content.encode())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another --out") from error
    print(f"written: {path}")


def page(folders: list[Path]) -> str:
    """Return the page over the runs in these folders."""
    runs = find_runs(folders)
    if len(runs) == 1:
        title = f"{runs[0].summary['task']}, {runs[0].name}"
        has_stages = runs[0].summary.get("stages")
        return make_page(runs, title, [run_grid(runs[0].summary) if has_stages else runs_grid(runs)])
    comparison = read_comparison(folders[0]) if len(folders) == 1 else None
    if comparison:
        name, content = comparison
        commands = commands_of_comparison(folders[0], name, content["settings"])
        return make_page(runs, str(content.get("title", name)), [runs_grid(runs)], commands)
    return make_page(runs, f"{len(runs)} runs", [runs_grid(runs)])


def _has_results(folder: Path) -> bool:
    """Return whether runs left results here; of `runs/*` the others are left out."""
    return (folder / "summary.json").is_file() or read_comparison(folder) is not None


def _common_folder(folders: list[Path]) -> Path:
    if len(folders) == 1:
        return folders[0]
    if not folders:
        raise UserError("none of these folders has results of a run (summary.json, compare.json)")
    return Path(os.path.commonpath(folders))


if __name__ == "__main__":
    run_command(work)
