"""The campaign without a network, in its short form: a job of two stages."""

from __future__ import annotations

import pytest

from tests.campaigns.no_network import CASES, SHORT, campaign, skip_reason

pytestmark = [
    pytest.mark.skipif(bool(skip_reason()), reason=skip_reason()),
    pytest.mark.timeout(400),
]


def test_a_job_without_a_network_is_refused_in_one_line() -> None:
    report = campaign({name: CASES[name] for name in SHORT})
    assert (report.cases, report.problems) == (len(SHORT), [])
