"""Jobs on the digits that were disturbed: what must be in their summary all the same."""

from __future__ import annotations

from typing import Any

SAMPLES, STEPS, TESTED = 1497, 24, 300
"""Of an epoch in batches of 64, and of an evaluation."""
EVALUATIONS = 2
"""Of an epoch."""
ACCURACY = 0.93
"""The least that is within noise: undisturbed jobs of 20 epochs and more come to 0.96 to 0.99."""


def losses(summary: dict[str, Any], stages: int, epochs: int) -> list[str]:
    """Return a line for everything that a job of decoupled stages has lost, or did twice."""
    total = epochs * STEPS
    wanted = {
        "samples": [epochs * SAMPLES] * stages,
        "steps": [total] * stages,
        "version": [total] * stages,
        "targets_received": [total] * (stages - 1) + [0],
    }
    found = {key: [stage[key] for stage in summary["stages"]] for key in wanted}
    wanted |= {"tested": [TESTED] * EVALUATIONS * epochs, "trained": [SAMPLES] * epochs}
    found["tested"] = [evaluation["tested"] for evaluation in summary["evaluations"]]
    found["trained"] = [epoch["trained"] for epoch in summary["epochs"]]
    problems = [f"{key} are {found[key]}" for key in wanted if found[key] != wanted[key]]
    accuracy = summary["final"]["test_accuracy"]
    return problems + [f"accuracy is {accuracy}"] * (accuracy < ACCURACY)
