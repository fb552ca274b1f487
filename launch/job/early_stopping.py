"""Early stopping of a job: its patience, and what the summary says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dni_async.early_stopping import Patience


def patience_of(epochs: int, steps_per_epoch: int) -> Patience | None:
    """Return the patience in steps; None without --patience, where evaluations are on the test set."""
    return Patience(epochs * steps_per_epoch) if epochs else None


def early_stopping_record(
    patience: Patience, evaluations: Sequence[Mapping[str, Any]], ended: str
) -> dict[str, Any]:
    """Return the best validation, whose weights were tested (None without any), and what ended training.

    Args:
        evaluations: records with `epoch`, `step` and the results on the validation set.
        ended: "patience", "until", "minutes" or "epochs".
    """
    best = next((record for record in evaluations if record["step"] == patience.best_at), None)
    kept = best and {k: v for k, v in best.items() if k in ("epoch", "step") or k.startswith("validation_")}
    return {"best": kept, "ended": ended}
