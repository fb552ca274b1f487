"""What a rank of the local launcher does before it imports torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch.local.rank_main import final_status
from tests.support.jobs import ROOT
from workers.failure.failure_file import FAILURE_FILE, report_failure


@pytest.mark.parametrize(
    ("rank", "status", "stays", "ends"),
    [(0, 2, True, 2), (1, 2, True, 2), (1, 141, True, 141), (0, 1, False, 0), (1, 1, True, 0)],
)
def test_bad_input_is_remembered_across_restarts_and_other_failures_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, status: int, stays: bool, ends: int
) -> None:
    monkeypatch.setenv(FAILURE_FILE, str(tmp_path / "told"))
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    assert not final_status()
    report_failure("it ended", status)
    assert final_status() == ends
    assert bool((tmp_path / "told").read_text()) is stays


def test_rank_main_imports_no_torch_before_it_starts_a_rank() -> None:
    code = "import sys, launch.local.rank_main; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_failure_file_that_has_gone_with_its_launcher_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(FAILURE_FILE, "/proc/0/fd/3")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert final_status() == 0
