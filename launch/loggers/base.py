"""What a logger is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """The run whose numbers a logger gets."""

    name: str
    """Such as "mnist-fcn, cdni, seed 0"."""
    out: Path | None
    """The folder for results; None without --out."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All settings, by their flat names, JSON-able."""
    start: int = 0
    """The step from which the run goes on; numbers of later steps, of the run before, no longer hold."""


class Logger(ABC):
    """Takes the numbers of a run, in the process of rank 0. It is made, called and closed in a thread of its
    own; if it falls behind it does not get all numbers, and at the end of a run it has 20 s to finish.

    Derive a class of your own, and name it as `--log my_package.my_module:MyLogger`.
    """

    needs_out: ClassVar[bool] = False
    """Whether it writes to the folder for results."""

    def __init__(self, run: LoggedRun) -> None:
        self.run = run

    @abstractmethod
    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take the numbers of a report or an evaluation, about one a second.

        Args:
            step: training steps so far.
            scalars: such as `loss`, `test_accuracy`, `samples_per_s`, `stage_0/utilisation`.
        """

    def close(self) -> None:
        """End the record; called once, after the last numbers."""
