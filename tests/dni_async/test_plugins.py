"""What a user reads whose module has, or needs, a name of the other layout of this project (see setup.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import tasks
from dni_async.errors import UserError
from dni_async.plugins import load_module


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_a_package_that_ours_hides_is_named(folder: Path) -> None:
    (folder / "tasks").mkdir()
    (folder / "tasks" / "mine.py").touch()
    with pytest.raises(UserError) as error:
        load_module("tasks.mine", "task")
    assert str(error.value) == (
        f"task module not found (tasks.mine): rename {folder / 'tasks'}, "
        f"because tasks is imported from {tasks.__path__[0]}"
    )


def test_a_module_that_imports_the_names_of_the_wheel_reads_ours(folder: Path) -> None:
    (folder / "of_the_wheel.py").write_text("from dni_async.tasks.base import Task\n")
    with pytest.raises(UserError, match=r"dni_async\.tasks' \(raised at .*\); here it is called tasks$"):
        load_module("of_the_wheel", "task")


def test_the_name_of_the_wheel_itself_reads_ours(folder: Path) -> None:
    with pytest.raises(UserError, match=r"run where Python can import it; here it is called tasks\.base$"):
        load_module("dni_async.tasks.base", "task")


def test_a_module_that_is_nowhere_has_no_other_name(folder: Path) -> None:
    with pytest.raises(UserError, match=r"run where Python can import it$"):
        load_module("dni_async.nowhere", "task")
