"""What pays on other devices: from speeds measured here and predictions, with the error of the prediction.

    here, K stages      measured speed-up m, predicted p          error of the prediction  p / m - 1
    there, N devices    predicted speed-up s                      expected: from s to s m / p, and as much
                                                                  beyond as repeats differed here

An engine pays if the lower end of what is expected is above `LEAST_GAIN`, and it does not learn worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LEAST_GAIN = 1.1
"""Speed-up below which a change of engine is not worth it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One engine; None where a number is not known. Speed-ups are over backprop on one device."""

    engine: str
    devices: int = 0
    """Those that it can use."""
    predicted: float | None = None
    """Speed-up on the devices, without correction."""
    memory_bytes: int | None = None
    """Predicted, of the device that holds most."""
    measured: float | None = None
    """Speed-up in the runs here."""
    spread: tuple[float, float] | None = None
    """Least and greatest speed-up of the runs here."""
    predicted_here: float | None = None
    """What the planner predicts for the runs here."""
    metric: float | None = None
    """Test metric of the runs here, as reports show it."""
    cost_here: float | None = None
    """How much worse than backprop it learned here: points of accuracy, or per cent of test loss."""
    cost_there: float | None = None
    """The same in as many stages as devices, trained in one process."""
    reason: str = ""
    """Why numbers are missing."""

    @property
    def error(self) -> float | None:
        """Error of the prediction for the runs here, as a share of what was measured."""
        if self.predicted_here is None or not self.measured:
            return None
        return self.predicted_here / self.measured - 1

    @property
    def expected(self) -> tuple[float, float] | None:
        """Least and greatest speed-up on the devices; None where nothing can be said."""
        if self.predicted is None or self.error is None or not self.measured:
            return None
        corrected = self.predicted / (1 + self.error)
        low, high = self.spread or (self.measured, self.measured)
        least = min(self.predicted, corrected) * low / self.measured
        return least, max(self.predicted, corrected) * high / self.measured

    @property
    def cost(self) -> float | None:
        """What it costs in learning: with as many stages as devices, or else as in the runs here."""
        return self.cost_here if self.cost_there is None else self.cost_there


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do, and the engine that it is about."""

    kind: Literal["take", "stay", "uncertain", "costly"]
    option: Option | None = None
    others: tuple[Option, ...] = ()
    """Further engines of which the same is true, and whose ranges overlap."""


def decide(options: Sequence[Option], noise: float) -> Decision:
    """Return the engine to take: the one with the greatest speed-up at the lower end of what is expected.

    Args:
        options: without backprop.
        noise: difference in learning that says nothing, in the units of `Option.cost`.
    """
    known = [option for option in options if option.expected]
    equal = [option for option in known if option.cost is None or option.cost <= noise]
    sure = sorted((o for o in equal if _low(o) >= LEAST_GAIN), key=_low, reverse=True)
    if sure:
        close = tuple(o for o in sure[1:] if _high(o) >= _low(sure[0]))
        return Decision(kind="take", option=sure[0], others=close)
    perhaps = sorted((o for o in equal if _high(o) >= LEAST_GAIN), key=_high, reverse=True)
    if perhaps:
        return Decision(kind="uncertain", option=perhaps[0], others=tuple(perhaps[1:]))
    fast = sorted((o for o in known if _low(o) >= LEAST_GAIN), key=_low, reverse=True)
    return Decision(kind="costly", option=fast[0]) if fast else Decision(kind="stay")


def _low(option: Option) -> float:
    assert option.expected
    return option.expected[0]


def _high(option: Option) -> float:
    assert option.expected
    return option.expected[1]
