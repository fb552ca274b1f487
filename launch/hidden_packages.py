"""Finds a folder or file that hides a package of this project, before an import fails because of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def describe_hidden(root: Path = ROOT) -> str:
    """Return the line about the first package of `root` that Python imports from elsewhere, or ""."""
    for name in ("dni_async", "tasks", "workers"):
        spec = find_spec(name)
        if spec is None:
            continue
        places = [Path(place) for place in spec.submodule_search_locations or [spec.origin or "."]]
        if root / name not in [place.resolve() for place in places]:
            return (
                f"{places[0]} hides the package {name} of this project ({root / name}): rename it, or run in "
                f"another folder, or install the project (pip install {root}) and run dni_async.launch"
            )
    return ""
