"""The example script trains by either schedule, and GUIDE shows what differs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "pipelining" / "train.py"


def last_loss(schedule: str) -> float:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    done = subprocess.run(
        [*torchrun, str(SCRIPT), "--schedule", schedule, "--steps", "100"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return float(re.findall(r"^loss ([\d.]+)", done.stdout, re.MULTILINE)[0])


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1f1b", "cdni", "local", "delayed"])
def test_the_example_learns_by_either_schedule(schedule: str) -> None:
    assert last_loss(schedule) < 0.1  # 4.2 at the start


def test_readme_shows_lines_of_the_example() -> None:
    (diff,) = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "GUIDE.md").read_text(), re.DOTALL)
    script = SCRIPT.read_text().replace("rule=options.schedule", 'rule="cdni"')
    for line in diff.splitlines():
        assert line[1:].strip() in script, line
