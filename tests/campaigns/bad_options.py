"""Every option of every command gets bad values: each must be refused by one line and exit status 2.

python -m tests.campaigns.bad_options                    all values
python -m tests.campaigns.bad_options --command train    those of one command
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.campaigns.bad_values import COMMANDS, FREE, VALUES
from tests.campaigns.report import Report, known_faults
from tests.support.jobs import run
from tests.support.refusal import refusal_problem

CASE_TIMEOUT_S = 60.0
CUT = ("--sg.rank", "--sg.negatives", "--sg.match")
"""Options whose values are checked at a cut."""


@dataclass(frozen=True, slots=True)
class Case:
    """One bad value of one option."""

    command: str
    option: str
    value: str

    def __str__(self) -> str:
        return f"{self.command} {self.option} {self.value}"

    @property
    def known_fault(self) -> str:
        """Why it is not refused yet; "" if it should be."""
        return KNOWN_FAULTS.get(str(self), "")

    def arguments(self) -> list[str]:
        values = {"<nothing>": [], "<empty>": [""], "<5000>": ["x" * 5000]}.get(self.value, [self.value])
        stages = ["--stages", "2"] if self.option in CUT else []
        return [*COMMANDS[self.command], *stages, self.option, *values]

    def problem(self) -> str:
        """Run the command; return what is wrong with the refusal, "" when nothing is."""
        try:
            done = run(f"launch.{self.command}", *self.arguments(), timeout=CASE_TIMEOUT_S)
        except AssertionError as error:
            return str(error)
        return refusal_problem(done)


def cases() -> Iterator[Case]:
    """Yield every case."""
    for command, options in VALUES.items():
        for option, values in options.items():
            for value in values.split():
                yield Case(command, option, value)


def without_bad_values(command: str) -> list[str]:
    """Return the options in the help of a command that no case tries; options without a value aside."""
    text = run(f"launch.{command}", "--help", COLUMNS="200").stdout
    shown = set(re.findall(r"(?<![\w-])--[a-z](?:[\w.-]*\w)?", text))
    negative = {option for option in shown if re.match(r"--(\w+\.)?no-", option)}
    flags = negative | {option.replace("no-", "", 1) for option in negative}
    return sorted(shown - flags - {*VALUES[command], *VALUES["train"], *FREE})


KNOWN_FAULTS = known_faults({}, [str(case) for case in cases()])
"""Cases that are not refused yet, and why; a case that is mended must leave."""


def short() -> list[Case]:
    """Return the first and the last value of every option, and every known fault."""
    every = list(cases())
    ends = {}
    for case in every:
        ends.setdefault((case.command, case.option), [case, case])[1] = case
    return [case for case in every if case in ends[case.command, case.option] or case.known_fault]


def campaign(chosen: list[Case]) -> Report:
    """Run the cases; a known fault that is mended is a problem, too."""
    report = Report()
    for case in chosen:
        report.add(str(case), case.problem(), case.known_fault)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.campaigns.bad_options")
    parser.add_argument("--command", choices=tuple(VALUES))
    asked = parser.parse_args()
    return campaign([case for case in cases() if asked.command in (None, case.command)]).show()


if __name__ == "__main__":
    sys.exit(main())
