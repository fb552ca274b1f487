"""The project's source files, and what each of them imports, for the tests of the architecture."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dni_async", "tasks", "workers", "launch")
"""The floors that are shipped, from the lowest to the highest; tasks and workers do not know each other."""


def modules(package: str) -> dict[str, Path]:
    """Map the dotted name of every module of a package to its file."""
    return {dotted_name(path): path for path in sorted((ROOT / package).rglob("*.py"))}


def dotted_name(path: Path) -> str:
    """Return the name under which Python imports a file of the repository."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_modules() -> dict[str, Path]:
    """Map the dotted name of every module of all shipped packages to its file."""
    return {name: path for package in PACKAGES for name, path in modules(package).items()}


def imports(source: str, module: str) -> set[str]:
    """Return the dotted names that a source imports anywhere: in functions and under TYPE_CHECKING, too.

    `from a import b` counts as a and as a.b, and an expression `torch.a.b` as torch.a.b.

    Args:
        source: the text of the module.
        module: its dotted name (with `.__init__` for a package), against which relative imports are read.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
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


def import_graph() -> dict[str, set[str]]:
    """Map every module of the shipped packages to those of them that it imports."""
    every = source_modules()
    graph = {}
    for name, path in every.items():
        module = f"{name}.__init__" if path.name == "__init__.py" else name
        graph[name] = (imports(path.read_text(), module) & every.keys()) - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others of the group."""
    reached = {name: _reachable(graph, name) for name in graph}
    on_circles = {name for name, below in reached.items() if name in below}
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in on_circles}
    return sorted(sorted(group) for group in groups)


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found
