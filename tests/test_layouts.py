"""A user's own packages called tasks, workers and launch, beside the repository and beside the wheel."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.hidden_packages import describe_hidden
from tests.support.source_tree import ROOT, source_modules

setuptools = pytest.importorskip("setuptools")

from setup import MOVED, moved  # noqa: E402

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from dni_async.tasks.base import Task
from workers.widths import WIDTH

class MyTask(Task):
    classes = 3

    def layers(self):
        return [nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3)]

    def data(self, root):
        x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
        return (TensorDataset(x, x[:, :3].argmax(1)),) * 2
"""
SCRIPT = """
from dni_async.launch.fit import fit
from tasks.mine import MyTask

if __name__ == "__main__":
    done = fit(MyTask(), stages=2, epochs=2, batch_size=32, quiet=True)
    print(len(done.summary["stages"]))
"""
OPTIONS = ("--task", "tasks.mine:MyTask", "--epochs", "2", "--batch-size", "32", "--quiet")
MODULES_OF_THE_WHEEL = """
import importlib, pkgutil, dni_async
names = [m.name for m in pkgutil.walk_packages(dni_async.__path__, "dni_async.") if "__main__" not in m.name]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A folder with a task in a package `tasks`, which uses a package `workers`, and a package `launch`."""
    folder = tmp_path / "user"
    for name in MOVED:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    (folder / "tasks" / "mine.py").write_text(TASK)
    (folder / "workers" / "widths.py").write_text("WIDTH = 8\n")
    (folder / "script.py").write_text(SCRIPT)
    return folder


def run(folder: Path, path: Path, *command: str) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of a command in a folder; it imports from `path`, too."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(path), "PATH": "", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installed_wheel_and_packages_of_the_user_do_not_hide_each_other(
    tmp_path: Path, user: Path
) -> None:
    pytest.importorskip("setuptools", minversion="70.1", reason="builds no wheel without the package wheel")
    source, site, pip = tmp_path / "source", tmp_path / "site", (sys.executable, "-m", "pip", "--quiet")
    source.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "dni_async", *MOVED):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check")
    build = (*pip, "wheel", "--no-build-isolation", *offline, "-w", str(tmp_path), str(source))
    assert run(tmp_path, tmp_path, *build)[0] == 0
    (wheel,) = tmp_path.glob("*.whl")
    assert run(tmp_path, tmp_path, *pip, "install", *offline, "--target", str(site), str(wheel))[0] == 0
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"bin", "dni_async"}

    python, script = sys.executable, site / "bin" / "dni-async"
    modules = run(user, site, python, "-c", MODULES_OF_THE_WHEEL)
    assert modules == (0, f"{len(source_modules()) - 2}\n", "")
    torchrun = (python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    for command in (
        (python, str(script), "train", "--stages", "2"),
        (python, "-m", "dni_async", "train"),
        (python, "-m", "dni_async.launch.train", "--stages", "2", "--supervise", "--out", "run"),
        (*torchrun, "dni_async.launch.train"),
        (python, str(script), "compare", "--engines", "backprop", "ddp", "1f1b", "cdni", "--out", "compared"),
    ):
        status, _, error = run(user, site, *command, *OPTIONS)
        assert status == 0, error
    assert run(user, site, python, "script.py") == (0, "2\n", "")


@pytest.mark.parametrize("name", ["tasks", "workers"])
def test_in_the_repository_a_package_that_hides_ours_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    assert run(tmp_path, ROOT, sys.executable, "-m", "launch.train") == (
        2,
        "",
        f"dni-async: {tmp_path / name} hides the package {name} of this project ({ROOT / name}): rename it, "
        f"or run in another folder, or install the project (pip install {ROOT}) and run dni_async.launch\n",
    )


def test_a_script_beside_a_module_that_hides_ours_gets_an_import_error_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").touch()
    status, _, error = run(tmp_path, ROOT, sys.executable, "-c", "import launch.fit")
    assert status == 1
    assert f"ImportError: {tmp_path / 'tasks.py'} hides the package tasks" in error.splitlines()[-1]


def test_packages_of_the_repository_are_not_hidden() -> None:
    assert describe_hidden() == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from launch.train import work", "from dni_async.launch.train import work"),
        ("    from tasks import base", "    from dni_async.tasks import base"),
        ('PATH = "launch.engines.ddp"', 'PATH = "dni_async.launch.engines.ddp"'),
        ('f"launch.{name}"', 'f"dni_async.launch.{name}"'),
        ('"""python -m launch.train ..."""', '"""python -m dni_async.launch.train ..."""'),
        ("from dni_async.launch.train import work", "from dni_async.launch.train import work"),
        ("workers = tasks", "workers = tasks"),
        (
            '"the tasks. launch, my.tasks.mine, a/workers.py"',
            '"the tasks. launch, my.tasks.mine, a/workers.py"',
        ),
    ],
)
def test_modules_have_their_names_of_the_wheel_in_it(before: str, after: str) -> None:
    assert moved(f"if True:\n    {before.strip()}\n") == f"if True:\n    {after.strip()}\n"


@pytest.mark.parametrize("source", ["import launch.train", "x = 1\ntasks.append(1)", "import os, workers"])
def test_a_package_that_is_used_by_its_name_alone_cannot_be_moved(source: str) -> None:
    with pytest.raises(ValueError, match=r"^line \d: write from \w+\.module import name$"):
        moved(source)


def test_every_module_can_be_moved() -> None:
    for path in source_modules().values():
        ast.parse(moved(path.read_text()))
