"""Imports go downward only: launch / workers, tasks / dni_async. See the README for the house."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dni_async", "tasks", "workers", "launch")
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


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file, of every module of a package."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


ALL = {name: path for package in PACKAGES for name, path in modules(package).items()}


def statements(tree: ast.AST, anywhere: bool) -> Iterator[ast.AST]:
    """All nodes, or only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if anywhere or not (typing_only or later):
            yield node
            yield from statements(node, anywhere)


def imports(source: str, module: str = "", anywhere: bool = True) -> set[str]:
    """Dotted names that a source imports; `from a import b` counts as a and as a.b."""
    names: set[str] = set()
    for node in statements(ast.parse(source), anywhere):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [base])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if dotted.startswith("torch."):
                names.add(dotted)
    return names


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
def test_the_check_finds_what_is_forbidden_and_nothing_else(
    source: str, package: str, found: list[str]
) -> None:
    assert forbidden(source, package) == found


@pytest.mark.parametrize("name", [name for name in ALL if name.split(".")[0] in FORBIDDEN])
def test_imports_go_downward_only(name: str) -> None:
    assert forbidden(ALL[name].read_text(), name.split(".")[0]) == []


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules on a cycle or leading to one; empty when there is none."""
    rest = dict(graph)
    while free := [name for name, needs in rest.items() if not needs & rest.keys()]:
        for name in free:
            del rest[name]
    return sorted(rest)


def test_the_check_finds_cycles() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["a", "b", "c"]


def test_no_modules_import_each_other() -> None:
    graph = {}
    for name, path in ALL.items():
        module = f"{name}.__init__" if path.name == "__init__.py" else name
        graph[name] = (imports(path.read_text(), module, anywhere=False) & ALL.keys()) - {name}
    assert graph["dni_async.stage.stage"] >= {"dni_async.messages", "dni_async.optim"}
    assert cycle(graph) == []


def test_nothing_is_imported_by_star() -> None:
    assert [
        name for name, path in ALL.items() if any(n.endswith(".*") for n in imports(path.read_text()))
    ] == []
    assert "torch.*" in imports("from torch import *")


WATCH = """
import importlib, os, sys, threading
before, names = sys.argv[1].split(), sys.argv[2:]
for name in before:
    importlib.import_module(name)

def writes(event, args):
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


def test_the_watch_sees_threads_and_files(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import threading\nopen('left.txt', 'w').close()\n"
        "stop = threading.Event()\nthreading.Thread(target=stop.wait, daemon=True).start()\n"
    )
    seen = watch(tmp_path, "busy")
    assert "writes left.txt" in seen
    assert "starts a thread" in seen
    assert seen.endswith("done\n")
