"""Names of what an evaluation measured: the set it was on, and the task's own metric.

stages report      test_loss         test_accuracy             whatever the set and the metric are
records have       test_loss         test_accuracy             of a classification
                   validation_loss   validation_perplexity     with --patience, of a language model
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dni_async.rules.loss import EXTRA


def metric_key(split: str, metric_name: str) -> str:
    """Return the key of a metric in records: `test_accuracy`, `validation_perplexity` ..."""
    return f"{split}_{metric_name.replace(' ', '_')}"


def named_result(
    result: Mapping[str, Any], split: str, metric_name: str, reported: Callable[[float], float]
) -> dict[str, Any]:
    """Return what the stages reported of an evaluation (or of their local losses) under the records' names.

    Args:
        result: with `test_loss` and `test_accuracy`, or with `local_accuracy`.
        split: "test" or "validation", the set that was evaluated.
        metric_name: of the task.
        reported: the task's `reported`, from the mean of the metric to the number that people know.
    """
    names = {
        "test_loss": f"{split}_loss",
        "test_accuracy": metric_key(split, metric_name),
        "local_accuracy": metric_key("local", metric_name),
    }
    result = dict(result)
    extra = {
        metric_key(split, name): total / count if count else None
        for name, (total, count) in result.pop(EXTRA, {}).items()
    }
    return extra | {
        names.get(key, key): reported(value) if key.endswith("_accuracy") and value is not None else value
        for key, value in result.items()
    }


def split_of(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Return the set that the evaluations of a run were on, "test" or "validation"."""
    return "validation" if any("validation_loss" in record for record in evaluations) else "test"
