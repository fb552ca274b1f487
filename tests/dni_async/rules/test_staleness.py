from __future__ import annotations

from dni_async.rules.staleness import Staleness


def test_mean_and_maximum_of_what_came() -> None:
    staleness = Staleness()
    for late in (1, 3, 2, 8):
        staleness.add(late)
    assert staleness.stats() == {"staleness_mean": 3.5, "staleness_max": 8}


def test_without_targets_it_is_zero() -> None:
    assert Staleness().stats() == {"staleness_mean": 0.0, "staleness_max": 0}
