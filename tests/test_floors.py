"""Imports go downward only (launch -> workers, tasks -> dni_async), and never in a circle."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.source_tree import (
    PACKAGES,
    ROOT,
    circles,
    dotted_name,
    import_graph,
    imports,
    source_modules,
)

FORBIDDEN = {
    "dni_async": (
        "torch.distributed",
        "torch.multiprocessing",
        "multiprocessing",
        "threading",
        "time",
        "os",
        "psutil",
        "tasks",
        "workers",
        "launch",
    ),
    "tasks": ("torch.distributed", "torch.multiprocessing", "multiprocessing", "workers", "launch"),
    "workers": ("tasks", "launch"),
}


ROOMS = {
    "dni_async": "stage rules networks synthesis recurrent partition state wrapper",
    "tasks": "vision text sequence",
    "workers": "runtime transport coordination failure recovery checkpoint",
    "launch": "config job engines loggers report planning recurrent local schedule",
}
ALL = source_modules()


def forbidden(source: str, package: str) -> list[str]:
    """What a source of this package uses and must not."""
    used = imports(source, f"{package}.module")
    return sorted(
        {banned for banned in FORBIDDEN[package] for name in used if f"{name}.".startswith(f"{banned}.")}
    )


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("import torch.distributed as dist", "dni_async", ["torch.distributed"]),
        ("from torch import distributed", "dni_async", ["torch.distributed"]),
        ("import torch\ndef f():\n    torch.distributed.get_rank()", "dni_async", ["torch.distributed"]),
        ("def f():\n    from time import perf_counter", "dni_async", ["time"]),
        ("import os.path", "dni_async", ["os"]),
        ("from workers.transport.base import Sender", "tasks", ["workers"]),
        ("from ..workers import loop", "dni_async", ["workers"]),
        ("import launch", "workers", ["launch"]),
        ("import timeit, ossaudiodev, torch.distributions", "dni_async", []),
        ("import torch.distributed, time", "workers", []),
    ],
)
def test_forbidden_imports_are_found_and_no_others(source: str, package: str, found: list[str]) -> None:
    assert forbidden(source, package) == found


@pytest.mark.parametrize("name", [name for name in ALL if name.split(".")[0] in FORBIDDEN])
def test_imports_go_downward_only(name: str) -> None:
    allowed = ["launch"] if name == "dni_async.__main__" else []  # the console script
    assert forbidden(ALL[name].read_text(), name.split(".")[0]) == allowed


def test_circles_are_found_by_their_members() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]
    assert circles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}) == [["a", "b", "c"]]


def test_imports_in_functions_and_for_type_checking_are_seen() -> None:
    source = "if TYPE_CHECKING:\n    import a\ndef f():\n    from b import c\nfrom . import d\n"
    assert imports(source, "room.module") == {"a", "b", "b.c", "room", "room.d"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = import_graph()
    assert sum(map(len, graph.values())) > 400
    assert circles(graph) == []


@pytest.mark.parametrize("package", ROOMS)
def test_every_floor_has_the_rooms_of_the_architecture(package: str) -> None:
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert folders == set(ROOMS[package].split())


def test_every_folder_says_what_lives_in_it() -> None:
    folders = [name for name, path in ALL.items() if path.name == "__init__.py"]
    assert len(folders) > 20
    assert [name for name in folders if not ast.get_docstring(ast.parse(ALL[name].read_text()))] == []
    for package in PACKAGES:
        with_code = {path.parent for path in (ROOT / package).rglob("*.py")}
        assert [folder for folder in with_code if not (folder / "__init__.py").exists()] == []


def test_tests_import_helpers_and_never_each_other() -> None:
    found = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        names = imports(path.read_text(), dotted_name(path))
        ours = {name for name in names if name.startswith("tests.")}
        others = {name for name in ours if not name.startswith(("tests.support", "tests.campaigns"))}
        if others:
            found[path.name] = others
    assert found == {}
    assert "tests.support.source_tree" in imports(Path(__file__).read_text(), "tests.test_floors")


def test_nothing_is_imported_by_star() -> None:
    assert [
        name for name, path in ALL.items() if any(n.endswith(".*") for n in imports(path.read_text(), name))
    ] == []
    assert "torch.*" in imports("from torch import *", "module")


WATCH = """
import importlib, os, sys, threading
before, names = sys.argv[1].split(), sys.argv[2:]
for name in before:
    importlib.import_module(name)

watching = True

def writes(event, args):
    if not watching:
        return
    if event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if args[0] not in ("/dev/null", os.devnull):
            print("writes", args[0])
    elif event in ("os.mkdir", "os.rename", "os.remove", "subprocess.Popen", "os.fork", "socket.bind"):
        print(event, *args)

threads = set(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else set()
sys.addaudithook(writes)
for name in names:
    importlib.import_module(name)
if os.path.isdir("/proc/self/task"):
    for thread in set(os.listdir("/proc/self/task")) - threads:
        print("starts a thread", thread)
if threading.active_count() > 1:
    print("starts", threading.enumerate())
watching = False  # torch 2.8 removes a file of its own at the end
print("done")
"""


def watch(folder: Path, *names: str, before: str = "") -> str:
    """What happens while `names` are imported after `before`, in a process of their own."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}", "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", WATCH, before, *names],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return run.stdout + run.stderr


def test_importing_the_project_starts_no_thread_and_writes_no_file(tmp_path: Path) -> None:
    names = [name for name in ALL if not name.endswith("__main__")]
    not_ours = "numpy torch torch.distributed.pipelining matplotlib.figure"
    assert watch(tmp_path, *names, before=not_ours) == "done\n"
    assert list(tmp_path.iterdir()) == []


def test_threads_and_files_of_an_import_are_seen(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import threading\nopen('left.txt', 'w').close()\n"
        "stop = threading.Event()\nthreading.Thread(target=stop.wait, daemon=True).start()\n"
    )
    seen = watch(tmp_path, "busy")
    assert "writes left.txt" in seen
    assert "starts a thread" in seen
    assert seen.endswith("done\n")
