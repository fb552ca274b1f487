"""A file is one idea of at most 250 lines, and a function fits a screen."""

from __future__ import annotations

import ast

from tests.support.source_tree import PACKAGES, ROOT

FILE_LINES = 250
FUNCTION_LINES = 60

FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (*PACKAGES, "tests/support", "tests/campaigns")
    for path in (ROOT / folder).rglob("*.py")
)
TEST_FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py"))


def longest_function(source: str) -> tuple[int, str]:
    """Return the lines and the name of the longest function of a source; (0, "") where there is none."""
    functions = [
        (node.end_lineno - node.lineno + 1, node.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None
    ]
    return max(functions, default=(0, ""))


def test_no_file_is_longer_than_its_limit() -> None:
    lines = {file: len((ROOT / file).read_text().splitlines()) for file in FILES}
    assert {file: count for file, count in lines.items() if count > FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    longest = {file: longest_function((ROOT / file).read_text()) for file in [*FILES, *TEST_FILES]}
    assert {file: found for file, found in longest.items() if found[0] > FUNCTION_LINES} == {}


def test_the_longest_function_of_a_source_is_found() -> None:
    assert longest_function(
        "def a():\n    pass\nclass B:\n    async def c(self):\n        x\n        y\n"
    ) == (
        3,
        "c",
    )
    assert longest_function("x = 1\n") == (0, "")
