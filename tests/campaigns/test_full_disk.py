"""The campaign of full disks, in its short form: checkpoints and weights that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.full_disk import CASES, SHORT, campaign, skip_reason

pytestmark = [
    pytest.mark.skipif(bool(skip_reason()), reason=skip_reason()),
    pytest.mark.timeout(400),
]


def test_a_full_disk_is_named_in_one_line_and_the_table_is_shown(tmp_path: Path) -> None:
    report = campaign({name: CASES[name] for name in SHORT}, tmp_path)
    assert (report.cases, report.problems) == (len(SHORT), [])
