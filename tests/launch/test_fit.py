"""Training from Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dni_async.errors import StageError
from launch.fit import fit
from tests.support.jobs import ROOT

TASK = """
from tests.support.tiny_task import Tiny, plain_layers

class Mine(Tiny):
    def __init__(self):
        super().__init__(plain_layers)
"""
SCRIPT = """
from task_beside_the_script import Mine
from launch.fit import fit

print(len(fit(Mine(), stages=2, cut="2", epochs=1, batch_size=16).summary["stages"]))
"""


def test_the_default_number_of_stages_is_one_and_the_model_comes_back() -> None:
    done = fit("digits-fcn", stages=0, epochs=1, task_args=("depth=2", "width=16"), batch_size=64)
    assert len(done.summary["stages"]) == 1
    assert done.model(torch.zeros(3, 784)).shape == (3, 10)


def test_ranks_import_a_task_that_lies_beside_the_script(tmp_path: Path) -> None:
    """From another working folder, in which a folder is called like a package of the project."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "elsewhere" / "tasks").mkdir(parents=True)
    (tmp_path / "scripts" / "task_beside_the_script.py").write_text(TASK)
    (tmp_path / "scripts" / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scripts" / "script.py")],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


FAILING = """
from task_beside_the_script import Mine
from launch.fit import fit

class Wrong(Mine):
    def layers(self):
        return [{}["dim"]]

fit(Wrong(), stages=2, cut="2", epochs=1, batch_size=16)
"""


@pytest.mark.slow
def test_an_error_in_the_users_script_is_shown_with_its_place_and_the_traceback_of_the_rank(
    tmp_path: Path,
) -> None:
    (tmp_path / "task_beside_the_script.py").write_text(TASK)
    (tmp_path / "script.py").write_text(FAILING)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    line = "rank 0, before the first step: KeyError: 'dim' (script.py:7 in layers())"
    assert done.stderr.splitlines()[0] == f"dni-async: {line}"
    assert done.stderr.splitlines()[-1] == f"{StageError.__module__}.StageError: {line}"
    assert "broadcast_plan" in done.stderr
