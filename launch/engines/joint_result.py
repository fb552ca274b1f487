"""The result of a baseline over all of its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dni_async.rules.loss import EXTRA


def together(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the result over the samples of all ranks, from the means of each (see `LossRule.result`)."""
    result: dict[str, Any] = {key: sum(r[key] for r in results) for key in ("trained", "tested")}
    for key, weight, samples in (
        ("loss", "trained_labels", "trained"),
        ("test_loss", "tested_labels", "tested"),
        ("test_accuracy", "scores", "tested"),
    ):
        weights = [r.get(weight, r[samples]) for r in results]
        known = [(r[key], w) for r, w in zip(results, weights, strict=True) if w]
        if len(known) <= 1:
            result[key] = known[0][0] if known else None
        else:
            result[key] = sum(mean * w for mean, w in known) / sum(weights)
        if sum(weights) != result[samples]:
            result[weight] = sum(weights)
    if EXTRA in results[0]:
        names = results[0][EXTRA]
        result[EXTRA] = {name: [sum(r[EXTRA][name][i] for r in results) for i in (0, 1)] for name in names}
    return result
