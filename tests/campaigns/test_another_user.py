"""The campaign of another user, in its short form: a supervised job whose listeners are flooded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.another_user import campaign, skip_reason
from tests.support.stranger import ATTACKS

pytestmark = [
    pytest.mark.skipif(bool(skip_reason()), reason=skip_reason()),
    pytest.mark.timeout(400),
]


def test_a_stage_restarts_while_another_user_floods_every_listener(tmp_path: Path) -> None:
    report = campaign(["supervised"], ["hold"], tmp_path)
    assert (report.cases, report.problems) == (1, [])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_job_that_another_user_attacks_ends_well(tmp_path: Path, attack: str) -> None:
    report = campaign(["shm", "tcp"], [attack], tmp_path)
    assert (report.cases, report.problems) == (2, [])
