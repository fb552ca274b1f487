"""Builds the wheel, which has one package: `dni_async`, with launch, tasks and workers inside it.

repository, editable install    dni_async    launch              tasks              workers
wheel                           dni_async    dni_async/launch    dni_async/tasks    dni_async/workers

Packages called tasks or workers are likely to exist beside a user's script, and would hide ours. Everything
else is in setup.cfg.
"""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "dni_async"
MOVED = ("launch", "tasks", "workers")
_NAMES = "|".join(MOVED)
_DOTTED = re.compile(rf"(?<![\w./])(?:{_NAMES})(?=\.[a-z{{])|(?<=from )(?:{_NAMES})(?= import\b)")
"""Names of modules: in imports, in strings such as "launch.engines.ddp" and f"launch.{name}"."""


def moved(source: str) -> str:
    """Return the source with the names that its modules have in the wheel.

    Raises:
        ValueError: it uses a package by its name alone, as `import launch.train` does.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [node.value.id]
        else:
            names = []
        if found := set(MOVED).intersection(names):
            raise ValueError(f"line {node.lineno}: write from {found.pop()}.module import name")
    return _DOTTED.sub(rf"{PACKAGE}.\g<0>", source)


class MovePackages(build_py):
    """Builds as ever, and then moves the packages; an editable install leaves them where they are."""

    def run(self) -> None:
        """Build the packages, move those of `MOVED` into ours, and rename them in every import."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, PACKAGE)
        for name in MOVED:
            shutil.rmtree(target / name, ignore_errors=True)
            shutil.move(Path(self.build_lib, name), target / name)
        for path in target.rglob("*.py"):
            path.write_text(moved(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    setup(cmdclass={"build_py": MovePackages})
