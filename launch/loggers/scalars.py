"""The numbers in a record of metrics.jsonl, by the names that loggers show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

CONSTANT = ("step", "index", "parameters", "threads", "pid")
"""Numbers that are no measurement."""


def scalars_of(record: Mapping[str, Any], stages: Sequence[Mapping[str, Any]] = ()) -> dict[str, float]:
    """Return `loss`, `test_accuracy` and so on of a record, and `stage_0/utilisation` and so on of stages."""
    found = dict(_numbers(record))
    for stage in stages:
        found |= {f"stage_{stage['index']}/{name}": value for name, value in _numbers(stage)}
    return found


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in CONSTANT:
            yield name, value
