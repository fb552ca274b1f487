"""Rules and window lengths side by side on one task over time.

python -m launch.windows --task copy --windows 2 4 8 --rules bptt dni --repeats 3 --out runs/w
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dni_async.errors import UserError
from launch.config.command_line import parse
from launch.config.recurrent import SequenceConfig
from launch.recurrent.train import run_sequences
from launch.report.files import prepare_out, write_results
from launch.report.grid import show
from launch.report.window_tables import Result, grids, result_of
from workers.failure.rank_runner import RankRunner
from workers.failure.signals import exit_process


@dataclass(kw_only=True, slots=True)
class WindowsConfig(SequenceConfig):
    """Train one task over time with every rule, every window and several seeds, one run after the other."""

    rules: tuple[str, ...] = ("bptt", "dni")
    """Rules to compare: bptt, dni, dni-aux, dni-permuted."""
    windows: tuple[int, ...] = (4,)
    """Time steps of a window; every rule is run with each."""
    repeats: int = 3
    """Seeds, from `seed` on."""

    def __post_init__(self) -> None:
        SequenceConfig.__post_init__(self)
        defaults = {field.name: field.default for field in fields(SequenceConfig)}
        for one, many in (("rule", "rules"), ("bptt", "windows")):
            if getattr(self, one) != defaults[one]:
                raise UserError(f"{one} is {getattr(self, one)}; side by side use --{many}, one or several")
            given = getattr(self, many)
            if not given or len(set(given)) < len(given):
                told = " ".join(map(str, given)) or "empty"
                raise UserError(f"{many} is {told}; name at least one, each once")
        if self.repeats < 1:
            raise UserError(f"repeats is {self.repeats}; it must be at least 1")
        for _ in self.jobs():  # bad rules and windows are told before anything runs
            pass

    def jobs(self) -> list[SequenceConfig]:
        """The runs in their order: all rules and windows with the first seed, then with the next."""
        shared = {field.name: getattr(self, field.name) for field in fields(SequenceConfig)}
        shared |= {"quiet": True, "out": ""}
        return [
            SequenceConfig(**shared | {"rule": rule, "bptt": steps, "seed": self.seed + repeat})
            for repeat in range(self.repeats)
            for steps in self.windows
            for rule in self.rules
        ]


def work(runner: RankRunner) -> None:
    """Run all jobs; tables and data are written anew after each, so that a long series may be stopped."""
    config = parse(WindowsConfig, "launch.windows")
    out = prepare_out(config.out or tempfile.mkdtemp(prefix="dni_async-windows-"))
    results: list[Result] = []
    for job in config.jobs():
        results.append(result_of(run_sequences(runner, job)))
        if not config.quiet:
            print(results[-1].line(), flush=True)
        write(config, results, out)
    if not config.quiet:
        for grid in grids(results):
            show(grid)
            print()
        print(f"written to {out}")


def write(config: WindowsConfig, results: list[Result], out: Path) -> None:
    """windows.json and windows.md."""
    data = {"settings": asdict(config), "runs": [asdict(run) for run in results]}
    write_results(out, "windows", data, grids(results))


def main() -> None:
    """Exit status 0; 2 for bad input; 1 when a run failed; 130 or 143 when it was stopped."""
    exit_process(RankRunner().run(work))


if __name__ == "__main__":
    main()
