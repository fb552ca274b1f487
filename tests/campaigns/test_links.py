"""The campaign of cut links, in its short form: nothing is lost or left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.links import campaign, skip_reason


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_cuts_and_two_kills_between_hosts_lose_nothing(tmp_path: Path) -> None:
    if reason := skip_reason():
        pytest.skip(reason)
    report = campaign(tmp_path, cuts=2, kills=2, seed=0)
    assert (report.cases, report.problems) == (4, [])
