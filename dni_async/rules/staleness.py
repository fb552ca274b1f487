"""How late targets come, counted in the stage's own optimizer steps."""

from __future__ import annotations

from typing import Any

from dni_async.state.state_dict import State


class Staleness:
    """Mean and maximum, through the run, of the version at a target less the version at its forward."""

    def __init__(self) -> None:
        self._sum = self._most = self._count = 0

    def add(self, steps: int) -> None:
        """One target came this late."""
        self._sum += steps
        self._most = max(self._most, steps)
        self._count += 1

    def stats(self) -> dict[str, Any]:
        """What a report shows; 0 when nothing came."""
        mean = self._sum / self._count if self._count else 0.0
        return {"staleness_mean": mean, "staleness_max": self._most}

    def state_dict(self) -> State:
        """The counts."""
        return {"sum": self._sum, "most": self._most, "count": self._count}

    def load_state_dict(self, state: State) -> None:
        """Count on from there."""
        self._sum, self._most, self._count = state["sum"], state["most"], state["count"]
