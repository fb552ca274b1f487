"""Whether other programs kept the cores of this machine busy while speeds were measured."""

from __future__ import annotations

import os
import time

import psutil

LEAST_CORES = 0.2
"""Cores on average, below which nothing is said: a desktop is never idle."""


class MachineLoad:
    """Counts the seconds that cores are busy from its construction on, those of this program apart."""

    def __init__(self) -> None:
        self._start, self._others = time.monotonic(), _seconds_of_others()

    def cores(self) -> float:
        """Return how many cores other programs kept busy, on average. Processes of this program count as its
        own when they have ended and been waited for."""
        return max(0.0, _seconds_of_others() - self._others) / max(1e-3, time.monotonic() - self._start)

    def notes(self) -> list[str]:
        """Return a line for below the table, if others kept cores busy."""
        if (busy := self.cores()) < LEAST_CORES:
            return []
        return [
            f"other programs kept {busy:.1f} of {psutil.cpu_count()} cores busy meanwhile: on an idle "
            "machine speeds are higher, and closer to each other from run to run"
        ]


def _seconds_of_others() -> float:
    """Return the seconds of all cores since the start of the machine, less those of this program."""
    machine, own = psutil.cpu_times(), os.times()
    everything = machine.user + machine.system + getattr(machine, "nice", 0.0)
    return everything - (own.user + own.system + own.children_user + own.children_system)
