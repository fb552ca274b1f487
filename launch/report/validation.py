"""What the record of a run says of its validations, where it has any (--patience)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dni_async.early_stopping import Patience
from launch.config.train import JobConfig

MEANS = ("loss", "accuracy")


def patience_of(config: JobConfig, steps_per_epoch: int) -> Patience | None:
    """In steps; None where evaluations are on the test set."""
    return Patience(config.patience * steps_per_epoch) if config.patience else None


def split_of(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """The set that evaluations of a run were on: their results are `test_loss`, or `validation_loss` ..."""
    return "validation" if any("validation_loss" in record for record in evaluations) else "test"


def validated(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of an evaluation that was on the validation set."""
    names = {f"test_{mean}": f"validation_{mean}" for mean in MEANS}
    return {names.get(key, key): value for key, value in result.items()}


def early_stopping(
    patience: Patience, evaluations: Sequence[Mapping[str, Any]], ended: str
) -> dict[str, Any]:
    """For the summary: the best validation, whose weights were tested (None without any), and what ended
    training: patience, until, minutes or epochs."""
    keys = ("epoch", "step", *(f"validation_{mean}" for mean in MEANS))
    best = next((record for record in evaluations if record["step"] == patience.best_at), None)
    return {"best": best and {key: best[key] for key in keys}, "ended": ended}
