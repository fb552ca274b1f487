"""How late targets come, counted in the stage's own optimizer steps."""

from __future__ import annotations

from typing import Any

from dni_async.state.state_dict import State


class Staleness:
    """Mean and maximum, over the run, of the steps that a stage took between a prediction and its target."""

    def __init__(self) -> None:
        self._sum = self._most = self._count = 0

    def add(self, steps: int) -> None:
        """Count one target that came `steps` steps late."""
        self._sum += steps
        self._most = max(self._most, steps)
        self._count += 1

    def stats(self) -> dict[str, Any]:
        """Return `staleness_mean` and `staleness_max` in optimizer steps; 0 before the first target."""
        mean = self._sum / self._count if self._count else 0.0
        return {"staleness_mean": mean, "staleness_max": self._most}

    def state_dict(self) -> State:
        """Return the sum and the maximum of the steps and the number of targets, JSON-able."""
        return {"sum": self._sum, "most": self._most, "count": self._count}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._sum, self._most, self._count = state["sum"], state["most"], state["count"]
