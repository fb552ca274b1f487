"""Watches processes from outside, and says whether what they hold grows.

a thread   every few seconds: memory, descriptors, shared memory and threads of every process
at the end the last third of the samples against the first third after a warm-up
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

WARM_UP = 0.1
"""Share of the samples that does not count: caches and the timeline fill up to their limits."""
TOLERANCE = {"rss_bytes": 0.05, "slot_bytes": 0.5, "descriptors": 0.5, "threads": 0.0}
"""What is watched, and by which share it may be more at the end than at the beginning. A channel makes a slot
(and a descriptor) when it first needs one more, which may be late in a run; a leak makes many more."""
SLOT = "memfd:dni_async slot"
LEAST_SAMPLES = 5

Sample = dict[str, int]
"""What one process holds at one moment."""


def sample(process: psutil.Process) -> Sample:
    """Return what a process holds now.

    Returns:
        rss_bytes: resident memory, slots included. slot_bytes: mapped memory of shm transports.
        descriptors and threads: how many.

    Raises:
        psutil.Error: the process has ended.
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


def ranks_below(launcher: psutil.Process) -> list[psutil.Process]:
    """Return the ranks of the job that a process started, in order."""
    found = {}
    for process in launcher.children(recursive=True):
        try:
            rank = process.environ().get("RANK")
        except psutil.Error:
            continue
        if rank is not None:
            found[int(rank)] = process
    return [found[rank] for rank in sorted(found)]


class ProcessWatch(threading.Thread):
    """Samples processes at equal intervals until they end or `stop` is called.

    Args:
        processes: finds the processes; called until it returns some.
        every: seconds between two samples.
        path: file for the samples, one JSON object a line.
    """

    def __init__(self, processes: Callable[[], Sequence[psutil.Process]], every: float, path: Path) -> None:
        super().__init__(daemon=True)
        self.samples: list[list[Sample]] = []
        """By time and process."""
        self._processes, self._every, self._path = processes, every, path
        self._stopped = threading.Event()

    def run(self) -> None:
        start, processes = time.monotonic(), self._processes()
        with self._path.open("w") as file:
            while not self._stopped.wait(self._every):
                try:
                    processes = processes or self._processes()
                    now = [sample(process) for process in processes]
                except (psutil.Error, OSError):
                    return  # the processes end
                if now:
                    self.samples.append(now)
                    print(json.dumps({"seconds": time.monotonic() - start, "ranks": now}), file=file)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def growth(samples: Sequence[Sequence[Sample]]) -> list[dict[str, Any]]:
    """Compare the last third of the samples with the first third after the warm-up.

    Returns:
        One row for each process: its number as `rank`, the two medians of everything that is watched, and
        the names of what grew beyond its tolerance as `grew`.
    """
    assert len(samples) >= LEAST_SAMPLES, f"{len(samples)} samples are too few to compare"
    counted = samples[int(WARM_UP * len(samples)) :]
    third = len(counted) // 3
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
