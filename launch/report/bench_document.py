"""docs/BENCHMARKS.md, written from what was measured now or earlier."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.report.bench_sections import SECTIONS, Section
from launch.report.metadata import hardware, versions
from workers.checkpoint.atomic_file import write_whole

RECORD = "measured.json"


def duration(minutes: int) -> str:
    """Return `about 12 min`, or `about 7 days`."""
    days = round(minutes / (24 * 60))
    return f"about {days} days" if days else f"about {minutes} min"


def shown(command: str) -> str:
    """Return the command as a user types it."""
    return f"python -m launch.{command}"


def about() -> dict[str, Any]:
    """Return date, hardware and versions of a measurement that is made now."""
    return {"date": datetime.date.today().isoformat(), "hardware": hardware(), "versions": versions()}


def write_document(docs: Path) -> None:
    """Write BENCHMARKS.md from what was measured, now or earlier."""
    parts = [HEAD]
    for section in SECTIONS:
        record = docs / "benchmarks" / section.name / RECORD
        parts.append(chapter(section, json.loads(record.read_text()) if record.exists() else None))
    more = docs / "benchmarks" / "more.md"
    if more.exists():
        parts.append(more.read_text())
    write_whole(docs / "BENCHMARKS.md", "\n".join(parts).encode())


def chapter(section: Section, record: dict[str, Any] | None) -> str:
    """Return a section in Markdown: what it measures, then each command with its table, below a line that
    says when and on what it was measured where that changes.

    Args:
        record: the content of the section's measured.json; None if nothing was measured yet.
    """
    lines = [f"## {section.title}", "", section.text, ""]
    if record is None:
        return "\n".join([*lines, *_not_measured(section, section.commands)])
    above = ""
    for done in record["done"]:
        if (line := _conditions(done.get("about", record))) != above:
            above = line
            lines += [line, ""]
        lines += [f"`{done['command']}`", "", done["table"].strip(), ""]
    lines += _not_measured(section, section.commands[len(record["done"]) :])
    for picture in section.pictures:
        lines += [f"![{section.title}](benchmarks/{section.name}/{Path(picture).name})", ""]
    return "\n".join(lines)


def _conditions(about: Mapping[str, Any]) -> str:
    """Return the line that says when and on what commands were measured."""
    machine, versions = about["hardware"], about["versions"]
    gpus = f", {' and '.join(machine['gpus'])}" if machine["gpus"] else ""
    return (
        f"{about['date']}, {machine['cores']} cores of {machine['cpu']}{gpus}, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {versions['python']}, torch {versions['torch']}"
    )


def _not_measured(section: Section, commands: Sequence[str]) -> list[str]:
    """Return the lines that name commands without results."""
    if not commands:
        return []
    why = " (no GPU was at hand)" if section.device == "cuda" else ""
    return [f"Not measured yet{why}:", "", *(line for each in commands for line in (f"`{shown(each)}`", ""))]


HEAD = """# Benchmarks

Written by `python -m launch.bench`, which runs the commands below and nothing else: rerun it, or one
section with `--only NAME`. One thread per stage unless the table says otherwise; every engine trains the
same network from the same initial weights on the same batches in the same order with the same optimizer.
Speed-up is over sequential backprop with one thread, measured in the same minutes: the engines take turns
(A B C A B C), numbers are medians, and the spread over the runs stands beside them.

Sections of 2026-11-23 and 2026-11-24 were measured at commit 9d66c45 or earlier. Since then cdni has the
structured head as its default SG network, except for batch-normalised features without residual connections;
`--in-flight auto` is the default (4 within a host, as before); the automatic cut leaves no stage without
weights where it can; and what the memory tables call `ledger` is called `pending`.
"""
