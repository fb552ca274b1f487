"""The report of a campaign counts cases, and takes a known fault that is mended for a problem."""

from __future__ import annotations

import pytest

from tests.campaigns.__main__ import campaigns, main
from tests.campaigns.report import Report, known_faults


def test_a_report_counts_cases_and_problems(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.add("good", "")
    report.add("bad", "status 1")
    report.add("known", "status 1", "torch waits")
    report.add("mended", "", "torch waits")
    assert report.cases == 4
    assert report.problems == [
        "bad: status 1",
        "mended: mended; take it out of KNOWN_FAULTS (torch waits)",
    ]
    assert report.show() == 1 and capsys.readouterr().out.endswith("4 cases, 2 problems\n")
    assert Report(3).show() == 0


def test_a_known_fault_that_is_no_case_is_refused() -> None:
    assert known_faults({"a": "torch waits"}, ["a", "b"]) == {"a": "torch waits"}
    with pytest.raises(AssertionError, match=r"no cases of the campaign: \['A'\]"):
        known_faults({"A": "torch waits"}, ["a", "b"])


def test_every_campaign_is_listed_with_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"soak", "kills", "bad_options", "forged_checkpoints", "damaged_data"} <= set(campaigns())
    main()
    printed = capsys.readouterr().out
    assert all(f"python -m tests.campaigns.{name}\n" in printed for name in campaigns())
    assert all(text.endswith((".", "?")) or ":" in text for text in campaigns().values())
