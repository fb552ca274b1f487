"""Measures everything and writes docs/BENCHMARKS.md.

python -m launch.bench                 the whole suite, over three hours on two cores
python -m launch.bench --only fcn cnn  these sections again; the others stay as they were measured
"""

from __future__ import annotations

import datetime
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dni_async.errors import StageError, UserError
from launch.config.command_line import parse
from launch.report.bench_sections import SECTIONS, Section
from launch.report.files import prepare_out, write_json
from launch.report.metadata import hardware, versions
from workers.failure.errors import StdoutClosed
from workers.failure.rank_runner import RankRunner, run_command

RECORD = "measured.json"
KEPT = ("compare.json", "plan.json", "latency.json", "windows.json")
"""Results that are kept beside the tables, for whoever wants every run's number."""
LONGEST = 4 * 3600.0
"""Seconds after which a command is taken to hang; the whole suite takes less. Those that take days have four
times what was told."""


@dataclass(kw_only=True, slots=True)
class BenchConfig:
    """Measure the suite of benchmarks and write it down. Let nothing else run meanwhile."""

    only: tuple[str, ...] = ()
    """Sections to measure (by default all); the others keep what was measured before."""
    docs: str = "docs"
    """Folder of BENCHMARKS.md; results go to its folder benchmarks."""
    list: bool = False
    """Show the sections and their commands, measure nothing."""

    def __post_init__(self) -> None:
        names = [section.name for section in SECTIONS]
        for name in self.only:
            if name not in names:
                raise UserError(f"unknown section ({name}); use some of {', '.join(names)}")


def work(runner: RankRunner) -> None:
    """Measure section after section; the document is rewritten after each."""
    config = parse(BenchConfig, "launch.bench")
    chosen = chosen_of(config)
    if config.list:
        for section in chosen:
            print(f"{section.name}: {section.title} ({duration(section.minutes)})")
            for command in section.commands:
                print(f"    {shown(command)}")
        return
    docs = prepare_out(config.docs)
    for section in chosen:
        runner.describe_position = lambda section=section: f"while section {section.name} was measured"  # type: ignore[misc]
        if section.device == "cuda" and not torch.cuda.is_available():
            print(f"--- {section.name}: left out, torch sees no GPU here")
            continue
        print(f"--- {section.name}, {duration(section.minutes)}", flush=True)
        measure(section, docs / "benchmarks" / section.name)
        write_document(docs)
    write_document(docs)
    print(f"written to {docs / 'BENCHMARKS.md'}")


def chosen_of(config: BenchConfig) -> list[Section]:
    """Those named; by default all but those that must be asked for."""
    wanted = config.only or [section.name for section in SECTIONS if config.list or not section.asked]
    return [section for section in SECTIONS if section.name in wanted]


def duration(minutes: int) -> str:
    """`about 12 min`, or `about 7 days`."""
    days = round(minutes / (24 * 60))
    return f"about {days} days" if days else f"about {minutes} min"


def shown(command: str) -> str:
    """The command as a user types it."""
    return f"python -m launch.{command}"


def measure(section: Section, folder: Path) -> None:
    """Run the section's commands; keep their tables, data and pictures in `folder` when all are done."""
    with tempfile.TemporaryDirectory(prefix="dni_async-bench-") as name:
        scratch = Path(name)
        longest = max(LONGEST, 4 * 60.0 * section.minutes)
        done = [run(command, scratch / str(i), longest) for i, command in enumerate(section.commands)]
        prepare_out(folder)
        for number in range(len(done)):
            keep(section, scratch / str(number), folder, "" if number == 0 else f"-{number + 1}")
    write_json(folder / RECORD, about() | {"done": done})


def keep(section: Section, out: Path, folder: Path, suffix: str) -> None:
    """A command's data and pictures, their names made its own by `suffix`."""
    for file in map(Path, (*KEPT, *section.pictures)):
        if (out / file).exists():
            shutil.copyfile(out / file, folder / f"{file.stem}{suffix}{file.suffix}")


def run(command: str, out: Path, longest: float = LONGEST) -> dict[str, str]:
    """One command to its end, and the tables that it wrote. Raises StageError when it fails, and StdoutClosed
    when that was all."""
    module, *arguments = shlex.split(command)
    print(f"    {shown(command)}", flush=True)
    arguments = [sys.executable, "-m", f"launch.{module}", *arguments, "--out", str(out)]
    try:
        status = subprocess.run(arguments, timeout=longest).returncode
    except subprocess.TimeoutExpired:
        raise StageError(f"{shown(command)} had not ended after {longest:g} s") from None
    if status == StdoutClosed.status:
        raise StdoutClosed
    if status:
        raise StageError(f"{shown(command)} failed with exit status {status}; its reason stands above")
    return {"command": shown(command), "table": (out / f"{module}.md").read_text()}


def about() -> dict[str, Any]:
    """When and on what."""
    return {"date": datetime.date.today().isoformat(), "hardware": hardware(), "versions": versions()}


def write_document(docs: Path) -> None:
    """BENCHMARKS.md from what was measured, now or earlier."""
    parts = [HEAD]
    for section in SECTIONS:
        record = docs / "benchmarks" / section.name / RECORD
        parts.append(chapter(section, json.loads(record.read_text()) if record.exists() else None))
    more = docs / "benchmarks" / "more.md"
    if more.exists():
        parts.append(more.read_text())
    (docs / "BENCHMARKS.md").write_text("\n".join(parts))


def chapter(section: Section, record: dict[str, Any] | None) -> str:
    """One section in Markdown."""
    lines = [f"## {section.title}", "", section.text, ""]
    if record is None:
        why = " (no GPU was at hand)" if section.device == "cuda" else ""
        commands = [f"`{shown(command)}`" for command in section.commands]
        return "\n\n".join(["\n".join(lines).rstrip(), f"Not measured yet{why}:", *commands, ""])
    machine = record["hardware"]
    gpus = f", {' and '.join(machine['gpus'])}" if machine["gpus"] else ""
    lines += [
        f"{record['date']}, {machine['cores']} cores of {machine['cpu']}{gpus}, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {record['versions']['python']}, torch {record['versions']['torch']}",
        "",
    ]
    for done in record["done"]:
        lines += [f"`{done['command']}`", "", done["table"].strip(), ""]
    for picture in section.pictures:
        lines += [f"![{section.title}](benchmarks/{section.name}/{Path(picture).name})", ""]
    return "\n".join(lines)


HEAD = """# Benchmarks

Written by `python -m launch.bench`, which runs the commands below and nothing else: rerun it, or one
section with `--only NAME`. One thread per stage unless the table says otherwise; every engine trains the
same network from the same initial weights on the same batches in the same order with the same optimizer.
Speed-up is over sequential backprop with one thread, measured in the same minutes: the engines take turns
(A B C A B C), numbers are medians, and the spread over the runs stands beside them.
"""


if __name__ == "__main__":
    run_command(work)
