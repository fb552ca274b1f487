"""What a campaign found, and how its command says so."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """The cases that a campaign tried and the problems that it found."""

    cases: int = 0
    problems: list[str] = field(default_factory=list)

    def show(self) -> int:
        """Print the problems and the number of cases; return the exit status of the command."""
        for problem in self.problems:
            print(problem)
        print(f"{self.cases} cases, {len(self.problems)} problems")
        return bool(self.problems)
