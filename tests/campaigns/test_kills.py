"""The campaign of kills: no sample is lost and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.kills import campaign


def test_two_kills_of_stages_lose_nothing(tmp_path: Path) -> None:
    report = campaign(tmp_path, stages=2, kills=2, seed=0, pause=0.5)
    assert (report.cases, report.problems) == (2, [])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stages", [2, 3])
def test_fifteen_kills_of_stages_lose_nothing(tmp_path: Path, stages: int) -> None:
    report = campaign(tmp_path, stages=stages, kills=15, seed=stages)
    assert (report.cases, report.problems) == (15, [])
