"""What a campaign found, and how its command says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


def known_faults(faults: Mapping[str, str], cases: Collection[str]) -> dict[str, str]:
    """Return the cases that end otherwise, each with the reason, after a check that they are cases at all."""
    unknown = sorted(set(faults) - set(cases))
    assert not unknown, f"known faults that are no cases of the campaign: {unknown}"
    return dict(faults)


@dataclass(slots=True)
class Report:
    """The cases that a campaign tried and the problems that it found."""

    cases: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, case: str, problem: str, known_fault: str = "") -> None:
        """Count a case.

        Args:
            case: its name.
            problem: what is wrong with the result; "" when nothing is.
            known_fault: why this case ends otherwise, which is no problem then, but one when the case is
                mended and still listed as a known fault.
        """
        self.cases += 1
        if problem and known_fault:
            print(f"{case}: {problem} (known, {known_fault})", flush=True)
        elif problem:
            self._report(f"{case}: {problem}")
        elif known_fault:
            self._report(f"{case}: mended; take it out of KNOWN_FAULTS ({known_fault})")

    def _report(self, problem: str) -> None:
        """Print a problem when it is found, as a long campaign may be stopped."""
        print(problem, flush=True)
        self.problems.append(problem)

    def show(self) -> int:
        """Print the numbers of cases and problems; return the exit status of the command."""
        print(f"{self.cases} cases, {len(self.problems)} problems")
        return bool(self.problems)
