"""The tables of several runs over time."""

from __future__ import annotations

from typing import Any

from launch.report.grid import Grid
from launch.report.window_tables import Result, grids, result_of


def result(rule: str, bptt: int, seed: int, **settings: Any) -> Result:
    defaults = {"task": "copy", "updates": 100, "seconds": 1.0, "state_max": 2.0, "last_state_max": 1.0}
    return Result(rule=rule, bptt=bptt, seed=seed, **defaults | settings)


def copied(rule: str, bptt: int, seed: int, **solved_at: int) -> Result:
    at = {name.removeprefix("at_"): updates for name, updates in solved_at.items()}
    longest = max(map(int, at), default=0)
    return result(rule, bptt, seed, final={"longest_solved_length": longest, "solved_at_update": at})


def rows(grid: Grid) -> list[tuple[str, ...]]:
    return list(zip(*(column.cells for column in grid.columns), strict=True))


COPIES = [
    copied("bptt", 4, 1, at_1=10, at_2=70),
    copied("bptt", 4, 0, at_1=20),
    copied("dni", 4, 0, at_1=8, at_2=40, at_3=90),
    copied("dni", 4, 1, at_1=9, at_2=30),
    copied("dni", 2, 0),
    copied("dni", 2, 1, at_1=5),
]


def test_lengths_stand_by_window_and_rule_in_the_order_of_seeds() -> None:
    lengths, _ = grids(COPIES)
    assert [column.head for column in lengths.columns] == ["T", "bptt", "dni"]
    assert rows(lengths) == [("2", "-", "0 / 1"), ("4", "1 / 2", "3 / 2")]
    assert lengths.title == "copy: longest solved length, seeds 0 / 1"


def test_updates_are_the_median_to_the_length_that_all_rules_reach_mostly() -> None:
    runs = [
        *(copied("bptt", 4, seed, at_1=10 * seed + 10, at_2=90) for seed in (0, 1)),
        copied("bptt", 4, 2, at_1=50),
        *(copied("dni", 4, seed, at_1=5, at_2=60, at_3=80 + seed) for seed in (0, 1, 2)),
    ]
    assert rows(grids(runs)[1]) == [("4", "90 to 2", "60 to 2")]


def test_a_row_in_which_some_rule_solved_nothing_names_no_length() -> None:
    assert rows(grids([copied("bptt", 4, 0), copied("dni", 4, 0, at_1=3)])[1]) == [("4", "-", "-")]


def test_scores_of_a_text_stand_beside_the_largest_state() -> None:
    final = {"bits_per_char": 2.34567, "validation": {"bits_per_char": 2.3}}
    bits, largest = grids([result("dni", 8, 0, task="char-lm", final=final, state_max=19.96)])
    assert bits.title == "char-lm: bits per char, seeds 0" and rows(bits) == [("8", "2.346")]
    assert largest.title == "char-lm: largest |state| carried, the whole run" and rows(largest) == [
        ("8", "20.0")
    ]


def test_a_result_keeps_the_largest_state_of_all_epochs_and_of_the_last() -> None:
    summary = {
        **{"task": "copy", "rule": "dni", "bptt": 4, "seed": 0, "updates": 10, "train_s": 1.5},
        "final": {"longest_solved_length": 3, "solved_at_update": {"3": 4}},
        "epochs": [{"state_max": 5.0}, {"state_max": 3.0}],
    }
    kept = result_of(summary)
    assert (kept.state_max, kept.last_state_max) == (5.0, 3.0)
    assert kept.line() == "copy, dni, T = 4, seed 0: longest_solved_length 3, 10 updates, 1.5 s"
