"""The campaign of plug-ins that return something else than their contract says, in its short form."""

from __future__ import annotations

import pytest

from tests.campaigns.wrong_plugins import CASES, SHORT, campaign

pytestmark = pytest.mark.timeout(240)


def test_a_plugin_that_returns_something_else_is_named_in_one_line() -> None:
    report = campaign({name: CASES[name] for name in SHORT})
    assert (report.cases, report.problems) == (len(SHORT), [])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_plugin_that_returns_something_else_is_named_in_one_line() -> None:
    report = campaign(CASES)
    assert (report.cases, report.problems) == (29, [])
