"""The training loss of the steps between two records, from the stages' mean since the epoch began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_POINTS = 1000
"""Points of a run's curve; when there are more, neighbours are merged."""


class TrainingLoss:
    """The curve of the training loss: one point per record, each the mean of the samples since the last.

    ```
    records, mean since the epoch began    0.90 (100)   0.80 (200)   EPOCH 0.70 (400)   0.40 (100)
    points, mean since the last record     0.90         0.70         0.60               0.40
    ```
    """

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []
        """Each with `step` and `epoch` at its end, the mean `loss`, and the number of `samples`."""
        self._sum, self._samples = 0.0, 0

    def add(self, result: Mapping[str, Any], step: int, epoch: float, *, epoch_ends: bool) -> float | None:
        """Return the mean loss since the last record, and add it to the curve; None when nothing was trained.

        Args:
            result: with `loss`, the mean since the epoch began, and the number of its samples, `trained`, or
                of its labels where some were ignored, `trained_labels`.
            epoch: passed so far, fractions included.
        """
        mean = result.get("loss")
        samples = result.get("trained_labels", result.get("trained")) or 0
        recent = None
        if mean is not None and samples > self._samples:
            recent = (mean * samples - self._sum) / (samples - self._samples)
            point = {"step": step, "epoch": epoch, "loss": recent, "samples": samples - self._samples}
            self.points.append(point)
            self._sum, self._samples = mean * samples, samples
        if epoch_ends:
            self._sum, self._samples = 0.0, 0
        if len(self.points) > MOST_POINTS:
            self.points = _merged(self.points)
        return recent

    def state_dict(self) -> dict[str, Any]:
        """Return the curve and the sum of the losses since the epoch began, JSON-able."""
        return {"points": list(self.points), "sum": self._sum, "samples": self._samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the curve that `state_dict` returned, and go on with it."""
        self.points = list(state["points"])
        self._sum, self._samples = state["sum"], state["samples"]


def _merged(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return half as many points, each the mean of two neighbours; an odd one stays as it is."""
    merged = []
    for first, second in zip(points[::2], points[1::2], strict=False):
        samples = first["samples"] + second["samples"]
        loss = (first["loss"] * first["samples"] + second["loss"] * second["samples"]) / samples
        merged.append(second | {"loss": loss, "samples": samples})
    return merged + points[2 * len(merged) :]
