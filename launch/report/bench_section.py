"""A section of docs/BENCHMARKS.md: a question, the commands that answer it, and how to read the answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """One measurement and its place in docs/BENCHMARKS.md."""

    name: str
    """For --only, and the folder of its results."""
    title: str
    text: str
    """What is compared and how the numbers are to be read, in Markdown."""
    commands: tuple[str, ...]
    """Modules of `launch` and their arguments, without --out."""
    pictures: tuple[str, ...] = ()
    """Files of the command's folder to show below the tables."""
    device: str = "cpu"
    """cuda: left out, and said to be, where torch sees no GPU."""
    minutes: int = 5
    """About how long it takes on two cores."""
    asked: bool = False
    """Whether it runs only when `--only` names it."""
