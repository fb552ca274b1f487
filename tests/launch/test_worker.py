"""What a rank of the local launcher does before it imports torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch.worker import bad_input
from tests.launch.jobs import ROOT
from workers.told import FAILURE_FILE, tell


@pytest.mark.parametrize(
    ("rank", "status", "stays", "bad"),
    [(0, 2, True, True), (1, 2, True, True), (0, 1, False, False), (1, 1, True, False)],
)
def test_bad_input_is_remembered_and_any_other_end_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, status: int, stays: bool, bad: bool
) -> None:
    monkeypatch.setenv(FAILURE_FILE, str(tmp_path / "told"))
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    assert not bad_input()
    tell("it ended", status)
    assert bad_input() is bad
    assert (tmp_path / "told").exists() is stays


def test_that_takes_no_torch() -> None:
    code = "import sys, launch.worker; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
