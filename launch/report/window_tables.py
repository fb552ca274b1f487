"""The tables of runs of a task over time with several rules and windows.

        bptt        dni               one row per window, one column per rule, one number per seed
T = 2   3 / 2 / 3   5 / 5 / 5
T = 4   3 / 3 / 3   7 / 7 / 7
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from launch.report.grid import Column, Grid, column
from launch.report.text import NOTHING, number

LENGTH = "longest_solved_length"


@dataclass(kw_only=True, slots=True)
class Result:
    """The result of one run."""

    task: str
    rule: str
    bptt: int
    seed: int
    updates: int
    seconds: float
    final: dict[str, Any]
    state_max: float
    """Largest |state| that was carried from window to window in the whole run."""
    last_state_max: float
    """The same in the last epoch."""

    @property
    def score_name(self) -> str:
        """Key of the score in `final`."""
        return LENGTH if LENGTH in self.final else next(iter(self.final))

    def line(self) -> str:
        """Return `copy, dni, T = 4, seed 0: longest_solved_length 7, 10,000 updates, 20.1 s`."""
        score = f"{self.score_name} {_score(self)}"
        where = f"{self.task}, {self.rule}, T = {self.bptt}, seed {self.seed}"
        return f"{where}: {score}, {number(self.updates)} updates, {self.seconds:.1f} s"


def result_of(summary: Mapping[str, Any]) -> Result:
    """Return the result in a run's summary."""
    largest = [epoch["state_max"] for epoch in summary["epochs"] if epoch["state_max"] is not None]
    return Result(
        **{name: summary[name] for name in ("task", "rule", "bptt", "seed", "updates", "final")},
        seconds=summary["train_s"],
        state_max=max(largest, default=0.0),
        last_state_max=largest[-1] if largest else 0.0,
    )


def grids(results: Sequence[Result]) -> list[Grid]:
    """Return the tables of the scores, and of the updates to a common length or of the largest states."""
    first = results[0]
    seeds = sorted({result.seed for result in results})
    title = f"{first.task}: {first.score_name.replace('_', ' ')}, seeds {' / '.join(map(str, seeds))}"
    tables = [_grid(title, results, lambda runs, others: _each(runs, _score))]
    if first.score_name == LENGTH:
        title = f"{first.task}: updates until the length that all rules of a row reach, median"
        return [*tables, _grid(title, results, _updates)]
    title = f"{first.task}: largest |state| carried, the whole run"
    return [*tables, _grid(title, results, lambda runs, others: _each(runs, lambda r: f"{r.state_max:.1f}"))]


def _grid(
    title: str, results: Sequence[Result], cell: Callable[[list[Result], list[list[Result]]], str]
) -> Grid:
    """Return a table with a row per window and a column per rule.

    Args:
        cell: from the runs of a window and rule, and the runs of each rule with that window, to the text.
    """
    windows = sorted({result.bptt for result in results})
    rules = list(dict.fromkeys(result.rule for result in results))

    def runs(steps: int, rule: str) -> list[Result]:
        return [result for result in results if (result.bptt, result.rule) == (steps, rule)]

    def text(steps: int, rule: str) -> str:
        others = [found for other in rules if (found := runs(steps, other))]
        return cell(mine, others) if (mine := runs(steps, rule)) else NOTHING

    columns = [column("T", windows, str)]
    columns += [Column(head=rule, cells=[text(steps, rule) for steps in windows]) for rule in rules]
    return Grid(title=title, columns=columns)


def _each(runs: list[Result], text: Callable[[Result], str]) -> str:
    return " / ".join(text(run) for run in sorted(runs, key=lambda run: run.seed))


def _score(run: Result) -> str:
    value = run.final[run.score_name]
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _updates(runs: list[Result], others: list[list[Result]]) -> str:
    """Return `1,234 to 3`, the median of the seeds; a seed that never gets there counts as infinite."""
    reached = [[length for length in _lengths(run) if _median(run, length) < math.inf] for run in others]
    common = set(reached[0]).intersection(*reached[1:])
    if not common:
        return NOTHING
    length = max(common)
    return f"{number(_median(runs, length))} to {length}"


def _lengths(runs: list[Result]) -> set[int]:
    return {int(length) for run in runs for length in run.final["solved_at_update"]}


def _median(runs: list[Result], length: int) -> float:
    return median(float(run.final["solved_at_update"].get(str(length), math.inf)) for run in runs)
