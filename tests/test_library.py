"""What docs/LIBRARY.md shows runs as it stands there, and learns."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dni_async
from dni_async.wrapper import DNI

PAGE = (Path(__file__).parents[1] / "docs" / "LIBRARY.md").read_text()
ALL = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
EXAMPLES = [example for example in ALL if "fit(" not in example]
(MOVE, JOBS) = (example for example in ALL if "fit(" in example)
PREAMBLE = EXAMPLES[0].split("net = ")[0] + "from dni_async import CDNI\n"


def run(example: str, capsys: pytest.CaptureFixture[str], steps: int = 100) -> tuple[float, Any]:
    """(last loss, network) of an example, behind the imports and data of the first one."""
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec((PREAMBLE + example).replace("range(100)", f"range({steps})"), names)
    capsys.readouterr()
    return names["loss"].item(), names["net"]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_learns(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = run(EXAMPLES[number], capsys, steps=1)
    last, net = run(EXAMPLES[number], capsys)
    assert last < 0.7 * first
    wrappers = [module for module in net.modules() if isinstance(module, DNI)]
    rows = [row for wrapper in wrappers for row in wrapper.dni_stats().values()]
    assert len(wrappers) >= 1 and all(row["sg_updates"] >= 100 for row in rows)


def test_with_an_opt_step_in_the_loop_the_first_example_learns_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stepped = EXAMPLES[0].replace("loss.backward()\n", "loss.backward()\n    opt.step()\n")
    assert stepped != EXAMPLES[0] and run(stepped, capsys)[0] == run(EXAMPLES[0], capsys)[0]


@pytest.mark.slow
def test_the_network_of_a_notebook_moves_to_processes_and_back(tmp_path: Path) -> None:
    (tmp_path / "notebook.py").write_text(PREAMBLE + MOVE)
    done = subprocess.run(
        [sys.executable, "notebook.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert all(float(accuracy) > 0.6 for accuracy in done.stdout.split()), done.stdout


@pytest.mark.slow
def test_jobs_run_from_python_as_the_page_shows(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text("import torch\n" + JOBS)
    done = subprocess.run(
        [sys.executable, "jobs.py"], cwd=tmp_path, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-3:]
    assert [line.split("'")[1] for line in last] == ["backprop", "cdni", "cdni lr=2e-3"]


def test_every_name_of_the_library_is_shown() -> None:
    assert all(name in PAGE for name in dni_async.__all__)
