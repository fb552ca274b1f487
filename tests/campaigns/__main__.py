"""Lists the campaigns: `python -m tests.campaigns`."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).parent


def campaigns() -> dict[str, str]:
    """Map the name of every campaign to the first paragraph of its docstring."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        source = path.read_text()
        if "\ndef main(" in source and path != Path(__file__):
            text = ast.get_docstring(ast.parse(source)) or ""
            found[path.stem] = " ".join(text.split("\n\n")[0].split())
    return found


def main() -> None:
    for name, text in campaigns().items():
        print(f"python -m tests.campaigns.{name}\n    {text}")


if __name__ == "__main__":
    main()
