"""Where results go, and what is shown."""

from __future__ import annotations

from dataclasses import dataclass

from launch.config.flat import Group


@dataclass(kw_only=True, slots=True)
class OutputConfig(Group):
    """Where results go, and what is shown."""

    out: str = ""
    """Folder for results; by default nothing is written."""
    quiet: bool = False
    """Show no progress and no table."""
