"""Files, modules, classes and constants that the documents name exist."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = (
    "README",
    "docs/GUIDE",
    "docs/ARCHITECTURE",
    "docs/RELIABILITY",
    "docs/LIBRARY",
    "docs/EXTENDING",
    "docs/CLUSTER",
)
PAGES = {name: (ROOT / f"{name}.md").read_text() for name in NAMES if (ROOT / f"{name}.md").exists()}
ROOMS = "(?:dni_async|workers|tasks|launch|tests)"
PATH = re.compile(rf"(?<![\w./-])({ROOMS}(?:/[\w.-]*\w)*/?|docs/[\w./-]*\w)(?![\w/])")
DOTTED = re.compile(rf"(?<![\w./-])({ROOMS}(?:\.[A-Za-z]\w*)+)")
CLASS = re.compile(r"`([A-Z][a-z]+\w*)(?:\.(\w+))?(?:\([^`]*\))?`")
OF_TORCH = ("TensorDataset", "GradScaler")


def resolves(name: str) -> bool:
    """Whether `name` is a module or an attribute of one; `-m launch.train` and `launch.fit.fit` are.

    So is `dni_async.launch.train`, as installed modules are called.
    """
    parts = re.sub(r"^dni_async\.(?=(launch|tasks|workers)\.)", "", name).split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@cache
def sources() -> str:
    rooms = ("dni_async", "workers", "tasks", "launch")
    return "\n".join(file.read_text() for room in rooms for file in sorted((ROOT / room).rglob("*.py")))


@pytest.mark.parametrize("page", PAGES)
def test_files_and_folders_that_a_page_names_exist(page: str) -> None:
    named = {path for path in PATH.findall(PAGES[page]) if "/" in path}
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_modules_and_attributes_that_a_page_names_exist(page: str) -> None:
    named = {name for name in DOTTED.findall(PAGES[page]) if not name.endswith(".py")}
    assert not [name for name in sorted(named) if not resolves(name)]


@pytest.mark.parametrize("page", ("docs/ARCHITECTURE", "docs/RELIABILITY"))
def test_classes_and_methods_that_a_page_names_exist(page: str) -> None:
    for name, member in CLASS.findall(PAGES[page]):
        if name in OF_TORCH:
            continue
        assert re.search(rf"^class {name}\b", sources(), re.MULTILINE), name
        assert not member or re.search(rf"\b(def {member}|self\.{member}|{member}:)", sources()), member


def test_constants_that_a_page_names_exist() -> None:
    constants = set(re.findall(r"`(_?[A-Z]+(?:_[A-Z]+)*_S)`", PAGES["docs/RELIABILITY"]))
    assert constants and not [name for name in constants if f"\n{name} = " not in sources()]


def test_the_architecture_names_every_folder_of_code() -> None:
    page = PAGES["docs/ARCHITECTURE"]
    for room in ("dni_async", "workers", "tasks", "launch"):
        folders = [file.parent for file in (ROOT / room).glob("*/__init__.py")]
        assert not [folder.name for folder in folders if f"{room}/{folder.name}/" not in page]


def test_the_new_names_in_the_changelog_exist() -> None:
    rows = re.findall(r"^\| `.*\| (.*) \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert names and not [name for name in names if not resolves(name)]
