"""The campaign of forged checkpoints, in its short form: every sixth forged file, and some damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.forged_checkpoints import campaign, damaged, forged

SHARES = 3
EVERY = 6


@pytest.mark.parametrize("share", range(SHARES))
def test_a_forged_checkpoint_is_refused_in_one_line_or_the_older_one_is_used(
    tmp_path: Path, share: int
) -> None:
    names = [*forged()][::EVERY][share::SHARES]
    report = campaign({name: forged()[name] for name in names}, tmp_path)
    assert report.cases > 5 and report.problems == []


def test_a_damaged_checkpoint_is_refused_in_one_line_or_the_older_one_is_used(tmp_path: Path) -> None:
    report = campaign(damaged(8, seed=0), tmp_path)
    assert (report.cases, report.problems) == (8, [])
