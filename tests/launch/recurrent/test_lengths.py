"""Copy with growing length: the floors of DNI through time, three seeds (real training, minutes).

pytest -m slow -k lengths, or one of the runs:
python -m launch.train --task copy --bptt 4 --rule dni --epochs 10 --seed 0 --out runs/copy
"""

from __future__ import annotations

from functools import cache
from statistics import median
from typing import Any

import pytest

from launch.config.recurrent import SequenceConfig
from launch.recurrent.train import run_sequences
from workers.failure.rank_runner import RankRunner

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@cache
def finals(bptt: int, rule: str) -> list[dict[str, Any]]:
    """What three seeds reach within 10,000 updates."""
    settings: dict[str, Any] = {"task": "copy", "bptt": bptt, "rule": rule, "epochs": 10, "quiet": True}
    return [
        run_sequences(RankRunner(), SequenceConfig.of(seed=seed, **settings))["final"] for seed in (0, 1, 2)
    ]


def lengths(bptt: int, rule: str) -> list[int]:
    return [final["longest_solved_length"] for final in finals(bptt, rule)]


def updates_to(length: int, bptt: int, rule: str) -> float:
    """The median of three seeds; one that does not get there counts as never."""
    return median(final["solved_at_update"].get(str(length), float("inf")) for final in finals(bptt, rule))


def test_windows_of_4_steps_copy_further_with_a_synthetic_gradient() -> None:
    dni, bptt = lengths(4, "dni"), lengths(4, "bptt")
    assert min(dni) >= 6 and max(bptt) <= 4 and min(dni) - max(bptt) >= 2, (dni, bptt)


def test_predictions_for_other_rows_do_not_help() -> None:
    assert max(lengths(4, "dni-permuted")) <= 4, lengths(4, "dni-permuted")


def test_windows_of_2_steps_copy_4_bits() -> None:
    assert min(lengths(2, "dni")) >= 4, lengths(2, "dni")


def test_windows_of_8_steps_learn_5_bits_in_half_the_updates() -> None:
    assert updates_to(5, 8, "dni") < updates_to(5, 8, "bptt") / 2
