"""A long run at full speed, watched from outside: does any process of it grow?

    python -m launch.soak --minutes 60 --stages 3 --out runs/soak

    a thread here   every few seconds: memory, descriptors, shared memory of every rank ──► soak.jsonl
    ranks           train until the time is up
    at the end      the last third of the samples against the first third behind the warm-up

All options of launch.train may be given.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from dni_async.errors import StageError, UserError
from launch.config.command_line import parse
from launch.config.train import TrainConfig
from launch.local.launcher import run_local
from launch.report.files import JsonLines, prepare_out, write_json
from launch.report.tables import Column, Grid, number, percent, show
from tasks.registry import create
from workers.failure.rank_runner import RankRunner
from workers.failure.signals import exit_process

WARMUP = 0.1
"""Share of the run that does not count: caches and the timeline fill up to their limits."""
TOLERANCE = {"rss_bytes": 0.05, "slot_bytes": 0.5, "descriptors": 0.5, "threads": 0.0}
"""What is watched, and the share by which it may be more at the end than at the beginning. A channel makes a
slot, which takes a descriptor, when it first needs one more, and that may be late; a leak is less modest."""
SLOT = "memfd:dni_async slot"

Sample = dict[str, int]
"""What one process held at one moment."""


@dataclass(kw_only=True, slots=True)
class SoakConfig(TrainConfig):
    """Train for a long time, watch memory, shared memory, descriptors and threads of every rank, and say
    whether any of them grows. Takes all options of train."""

    stages: int = 2
    """Processes to start on this machine."""
    epochs: int = 1_000_000
    """The limit, should `minutes` be very long."""
    minutes: float | None = 60.0
    """How long to train."""
    every: float = 5.0
    """Seconds between two looks."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        if self.minutes is None or not 0 < self.every <= 60 * self.minutes / 20:
            raise UserError(
                f"every is {self.every} and minutes {self.minutes}; a soak takes twenty looks or more: give "
                "it more time, or less between looks"
            )
        if not self.out:
            raise UserError("a soak writes down what it sees; give a folder with --out")


def look(process: psutil.Process) -> Sample:
    """What a process holds now. Raises psutil.Error when it has ended.

    rss_bytes: resident, slots included. slot_bytes: mapped memory of shm transports.
    """
    with process.oneshot():
        rss, threads = process.memory_info().rss, process.num_threads()
    maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    slots = (line.split("-", 1) for line in maps if SLOT in line)
    slot_bytes = sum(int(end.split(" ", 1)[0], 16) - int(start, 16) for start, end in slots)
    return {
        "rss_bytes": rss,
        "slot_bytes": slot_bytes,
        "descriptors": process.num_fds(),
        "threads": threads,
    }


def ranks_below(me: psutil.Process) -> list[psutil.Process]:
    """The ranks of the job that a process started, in order."""
    found = {}
    for process in me.children(recursive=True):
        try:
            rank = process.environ().get("RANK")
        except psutil.Error:
            continue
        if rank is not None:
            found[int(rank)] = process
    return [found[rank] for rank in sorted(found)]


class Watch(threading.Thread):
    """Looks at the processes that `ranks` finds every so many seconds, from the moment that it finds some
    until `stop`. path: of the file for what it sees."""

    def __init__(self, ranks: Callable[[], Sequence[psutil.Process]], every: float, path: Path) -> None:
        super().__init__(daemon=True)
        self.samples: list[list[Sample]] = []
        """By time and rank."""
        self._ranks, self._every, self._path = ranks, every, path
        self._over = threading.Event()

    def run(self) -> None:
        """The thread's body."""
        start, ranks = time.perf_counter(), self._ranks()
        with JsonLines(self._path, append=False) as lines:
            while not self._over.wait(self._every):
                ranks = ranks or self._ranks()
                try:
                    now = [look(rank) for rank in ranks]
                except (psutil.Error, OSError):
                    return  # the run ends
                if not now:
                    continue
                self.samples.append(now)
                lines.write({"seconds": time.perf_counter() - start, "ranks": now})

    def stop(self) -> None:
        """The run is over."""
        self._over.set()
        self.join()


def verdict(samples: Sequence[Sequence[Sample]]) -> list[dict[str, Any]]:
    """By rank and thing: medians of the first and the last third behind the warm-up, and whether it grew.

    Raises StageError when there are too few samples.
    """
    counted = samples[int(len(samples) * WARMUP) :]
    third = len(counted) // 3
    if not third:
        raise StageError(f"the run was looked at {len(samples)} times only; let it last longer")
    rows = []
    for rank in range(len(counted[0])):
        row: dict[str, Any] = {"rank": rank, "grew": []}
        for name, share in TOLERANCE.items():
            first, last = (
                median(now[rank][name] for now in part) for part in (counted[:third], counted[-third:])
            )
            row[name] = [first, last]
            if last > first * (1 + share):
                row["grew"].append(name)
        rows.append(row)
    return rows


def soak_grid(rows: Sequence[Mapping[str, Any]], looks: int, minutes: float) -> Grid:
    """One row per rank: before -> after."""

    def column(head: str, name: str, unit: float = 1.0, digits: int = 0) -> Column:
        cells = (" -> ".join(number(value / unit, digits) for value in row[name]) for row in rows)
        return Column(head=head, cells=list(cells))

    growth = [(row["rss_bytes"][1] - row["rss_bytes"][0]) / row["rss_bytes"][0] for row in rows]
    columns = [
        Column(head="rank", cells=[str(row["rank"]) for row in rows]),
        column("memory MB", "rss_bytes", 1e6, 1),
        Column(head="more by", cells=[percent(share, 1) for share in growth]),
        column("slots MB", "slot_bytes", 1e6, 2),
        column("descriptors", "descriptors"),
        column("threads", "threads"),
        Column(head="grew", cells=[", ".join(row["grew"]) or "no" for row in rows]),
    ]
    title = f"{minutes:g} minutes, {looks} looks: first -> last third, behind a warm-up of {percent(WARMUP)}"
    return Grid(title=title, columns=columns)


def work(runner: RankRunner) -> None:
    """Run, watch, tell."""
    config = parse(SoakConfig, "launch.soak")
    assert config.minutes is not None
    task = create(config.task, config.task_args)
    out = prepare_out(config.out)
    metrics = out / "metrics.jsonl"
    metrics.unlink(missing_ok=True)

    def in_training() -> list[psutil.Process]:
        reported = metrics.exists() and metrics.stat().st_size > 0
        return ranks_below(psutil.Process()) if reported else []

    watch = Watch(in_training, config.every, out / "soak.jsonl")
    watch.start()
    try:
        run_local(config, task)
    finally:
        watch.stop()
    rows = verdict(watch.samples)
    write_json(out / "soak.json", {"minutes": config.minutes, "looks": len(watch.samples), "ranks": rows})
    show(soak_grid(rows, len(watch.samples), config.minutes))
    if any(row["grew"] for row in rows):
        raise StageError(f"something grew in {config.minutes:g} minutes; see {out / 'soak.jsonl'}")


def main() -> None:
    """Exit status 0; 1 when something grew; else as launch.train."""
    exit_process(RankRunner().run(work))


if __name__ == "__main__":
    main()
