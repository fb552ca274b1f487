"""What docs/EXTENDING.md adds from outside, in real processes that are started in another folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.documents import write_shown
from tests.support.jobs import TINY
from tests.support.source_tree import ROOT

PAGE = "docs/EXTENDING.md"


def run_module(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` in a folder to its end."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=80,
    )


def train(folder: Path, *arguments: str) -> dict[str, Any]:
    """Train the digits in two stages, and return the summary."""
    done = run_module(
        folder, "launch.train", *TINY, "--stages", "2", "--epochs", "4", "--out", "run", "--quiet", *arguments
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return dict(json.loads((folder / "run" / "summary.json").read_text()))


def test_the_rule_of_the_page_trains_in_two_processes(tmp_path: Path) -> None:
    write_shown(PAGE, "my_rule.py", tmp_path)
    summary = train(tmp_path, "--rule", "my_rule:ClassMean")
    assert (summary["engine"], summary["rule"]) == ("ClassMean", "my_rule:ClassMean")
    first = summary["stages"][0]
    assert first["version"] == first["targets_received"] == 96
    assert summary["final"]["test_accuracy"] > 0.9


def test_the_sg_network_of_the_page_trains_in_two_processes(tmp_path: Path) -> None:
    write_shown(PAGE, "my_sg.py", tmp_path)
    summary = train(tmp_path, "--rule", "cdni", "--sg.kind", "my_sg:Tanh")
    assert summary["settings"]["sg"]["kind"] == "my_sg:Tanh"
    assert summary["stages"][0]["sg_updates"] == 96
    assert summary["stages"][0]["sg_cosine"] > 0.3
    assert summary["final"]["test_accuracy"] > 0.8


def test_the_engine_and_the_rule_of_the_page_are_compared_with_backprop(tmp_path: Path) -> None:
    (tmp_path / "my_pkg").mkdir()
    write_shown(PAGE, "my_engine.py", tmp_path / "my_pkg")
    write_shown(PAGE, "my_rule.py", tmp_path)
    engines = ("--engines", "backprop", "my_pkg.my_engine", "my_rule:ClassMean")
    done = run_module(tmp_path, "launch.compare", *TINY, "--epochs", "2", *engines, "--out", "run", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads((tmp_path / "run" / "compare.json").read_text())["rows"]
    assert [(row["engine"], row["stages"]) for row in rows] == [
        ("backprop", 1),
        ("my_engine", 1),
        ("ClassMean", 2),
    ]
    assert all(row["test_accuracy"] > 0.7 for row in rows)
    assert (tmp_path / "run" / "my_engine" / "summary.json").exists()
