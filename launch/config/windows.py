"""The settings of a comparison of rules and window lengths on one task over time."""

from __future__ import annotations

from dataclasses import dataclass

from dni_async.errors import UserError
from launch.config.checks import at_least
from launch.config.recurrent import OverTimeConfig, SequenceConfig


@dataclass(kw_only=True, slots=True)
class WindowsConfig(OverTimeConfig):
    """Train one task over time with every rule, every window and several seeds, one run after the other."""

    rules: tuple[str, ...] = ("bptt", "dni")
    """Rules to compare: bptt, dni, dni-aux, dni-permuted."""
    windows: tuple[int, ...] = (4,)
    """Time steps of a window; every rule is run with each."""
    repeats: int = 3
    """Seeds, from `seed` on."""

    def __post_init__(self) -> None:
        OverTimeConfig.__post_init__(self)
        for name, given in (("rules", self.rules), ("windows", self.windows)):
            if not given or len(set(given)) < len(given):
                shown = " ".join(map(str, given)) or "empty"
                raise UserError(f"{name} is {shown}; name at least one, each once")
        at_least(1, repeats=self.repeats)
        self.jobs()  # bad rules and windows are refused before anything runs

    def jobs(self) -> list[SequenceConfig]:
        """Return the runs in their order: all rules and windows with the first seed, then with the next."""
        return [
            self.to(SequenceConfig, rule=rule, bptt=steps, seed=self.task.seed + repeat, quiet=True, out="")
            for repeat in range(self.repeats)
            for steps in self.windows
            for rule in self.rules
        ]
