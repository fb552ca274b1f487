"""The campaign of bad option values, in its short form."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from tests.campaigns.bad_options import Case, short, without_bad_values
from tests.campaigns.bad_values import COMMANDS


def marked(case: Case) -> ParameterSet:
    known = pytest.mark.xfail(reason=case.known_fault, strict=True)
    return pytest.param(case, marks=known if case.known_fault else (), id=str(case))


@pytest.mark.parametrize("case", [marked(case) for case in short()])
def test_a_bad_option_value_is_refused_in_one_line_with_status_2(case: Case) -> None:
    assert case.problem() == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_in_the_help_of_a_command_gets_bad_values(command: str) -> None:
    assert without_bad_values(command) == []
