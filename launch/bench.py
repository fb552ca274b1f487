"""Measures everything and writes docs/BENCHMARKS.md.

python -m launch.bench                 the whole suite, over three hours on two cores
python -m launch.bench --only fcn cnn  these sections again; the others stay as they were measured
python -m launch.bench --resume        the commands that are missing
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dni_async.errors import UserError
from launch.config.command_line import parse
from launch.local.bench_commands import measure
from launch.report.bench_document import duration, shown, write_document
from launch.report.bench_sections import SECTIONS, Section
from launch.report.files import prepare_out
from workers.failure.rank_runner import RankRunner, run_command


@dataclass(kw_only=True, slots=True)
class BenchConfig:
    """Measure the suite of benchmarks and write it down. Let nothing else run meanwhile."""

    only: tuple[str, ...] = ()
    """Sections to measure (by default all); the others keep what was measured before."""
    resume: bool = False
    """Go on behind the commands that an earlier measurement has done, for one that was interrupted."""
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
        try:
            measure(section, docs / "benchmarks" / section.name, config.resume)
        finally:  # a command that fails leaves the results of those before it
            write_document(docs)
    write_document(docs)
    print(f"written to {docs / 'BENCHMARKS.md'}")


def chosen_of(config: BenchConfig) -> list[Section]:
    """Those named; by default all but those that must be asked for."""
    wanted = config.only or [section.name for section in SECTIONS if config.list or not section.asked]
    return [section for section in SECTIONS if section.name in wanted]


if __name__ == "__main__":
    run_command(work)
