from __future__ import annotations

from dni_async.rules.staleness import Staleness


def test_staleness_has_a_mean_and_a_maximum() -> None:
    staleness = Staleness()
    for late in (1, 3, 2, 8):
        staleness.add(late)
    assert staleness.stats() == {"staleness_mean": 3.5, "staleness_max": 8}


def test_staleness_is_zero_without_targets() -> None:
    assert Staleness().stats() == {"staleness_mean": 0.0, "staleness_max": 0}
