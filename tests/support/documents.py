"""Programs and commands that a page of the documentation shows, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.source_tree import ROOT


def files_shown(page: str) -> dict[str, str]:
    """Map the name in each `<!-- NAME.py -->` of a page to the block of Python below it."""
    text = (ROOT / page).read_text()
    return dict(re.findall(r"<!-- (\S+\.py) -->\n```python\n(.*?)```", text, re.DOTALL))


def write_shown(page: str, name: str, folder: Path) -> Path:
    """Write one of these files into a folder, and return its path."""
    path = folder / name
    path.write_text(files_shown(page)[name])
    return path
