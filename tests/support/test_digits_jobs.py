from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.support.digits_jobs import SAMPLES, STEPS, TESTED, losses


def whole() -> dict[str, Any]:
    """The summary of two stages and one epoch."""
    counts = {"samples": SAMPLES, "steps": STEPS, "version": STEPS}
    return {
        "stages": [counts | {"targets_received": STEPS}, counts | {"targets_received": 0}],
        "evaluations": [{"tested": TESTED}, {"tested": TESTED}],
        "epochs": [{"trained": SAMPLES}],
        "final": {"test_accuracy": 0.97},
    }


def test_a_whole_job_has_lost_nothing() -> None:
    assert losses(whole(), 2, 1) == []


@pytest.mark.parametrize(
    ("place", "key", "value", "line"),
    [
        (("stages", 1), "samples", 1433, "samples are [1497, 1433]"),
        (("stages", 0), "targets_received", 23, "targets_received are [23, 0]"),
        (("evaluations", 0), "tested", 364, "tested are [364, 300]"),
        (("epochs", 0), "trained", 1561, "trained are [1561]"),
        (("final",), "test_accuracy", 0.5, "accuracy is 0.5"),
    ],
)
def test_what_was_lost_or_done_twice_is_named(
    place: tuple[Any, ...], key: str, value: float, line: str
) -> None:
    summary = copy.deepcopy(whole())
    inner: Any = summary
    for step in place:
        inner = inner[step]
    inner[key] = value
    assert losses(summary, 2, 1) == [line]
