"""Emulated devices: every section of compute lasts as long as on a device of G GFLOP/s.

    real     | forward |          | backward |              | update |
    emulated | forward ...sleep.. | backward ... sleep .... | update | wait | ...
             |<--- FLOPs / G ---->|<----- FLOPs / G ------->|

Learning and messages are real, only the pace is emulated: a section that is computed sooner sleeps for the
rest, so that more stages than cores can run side by side. Matrix products, convolutions, attention and
recurrent layers count (`partition.flops`), counted once for every kind of message and shape, when the first
of it is handled. Elementwise work, reductions and optimizer steps count nothing: they take the time that they
really take.

Two things keep the pace honest. A sleep that lasts too long shortens the next ones, so that the average is
exact. A section whose real work takes longer than FLOPs / G measures this machine, not the emulated one: the
share of such time is reported as `emulation_overrun`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from dni_async.partition.flops import flop_counter
from workers.runtime.cuda import accelerator_of
from workers.runtime.gpu_probe import GpuProbe
from workers.runtime.probe import COMPUTE, Probe

OVERRUN_WARNING = 0.05
"""Share of a stage's section time that may overrun before a run says so."""


def make_probe(gflops: float | None, warmup: int, device: torch.device, timeout: float) -> Probe:
    """The probe of one rank: an `Emulator` if a device is emulated, a `GpuProbe` on a GPU, which may take
    `timeout` seconds for what it has to do."""
    if accelerator := accelerator_of(device):
        return GpuProbe(accelerator, timeout, warmup)
    return Probe(warmup) if gflops is None else Emulator(gflops, warmup)


@contextmanager
def flop_clock(gflops: float) -> Iterator[Callable[[], float]]:
    """A clock of the seconds that an emulated device needs for what is computed in the context."""
    with flop_counter() as counter:
        yield lambda: counter.get_total_flops() / (gflops * 1e9)


class Emulator(Probe):
    """A probe that delays the end of every section of compute until the emulated device would be done.

    Args:
        gflops: 1e9 floating-point operations per second (a multiplication and an addition are two).
    """

    def __init__(
        self,
        gflops: float,
        warmup: int = 0,
        limit: int = 20_000,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(warmup, limit, clock)
        self.flops_per_s = gflops * 1e9
        self.sleep = sleep
        self.overrun = 0.0
        """Seconds of training sections beyond FLOPs / G; like the totals, without the warm-up."""
        self._known: dict[Hashable, list[int]] = {}
        """FLOPs of the sections of every key of work seen so far, in order."""
        self._work: Hashable = None
        self._sections: list[int] = []
        self._position = 0
        self._late = 0.0
        """Seconds by which sleeps have lasted too long and that shorten the next ones."""
        self._counter: FlopCounterMode | None = None
        self._counted = 0

    @override
    def begin(self, step: int, training: bool, before: str = "wait", work: Hashable = None) -> None:
        self.end()
        super().begin(step, training, before, work)
        self._work, self._position = work, 0
        if work is not None and work not in self._known:
            self._sections, self._counted = [], 0
            self._counter = flop_counter()
            self._counter.__enter__()
        else:
            self._sections = self._known.get(work, [])

    @override
    def end(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None
            self._known[self._work] = self._sections

    @override
    def mark(self, kind: str) -> None:
        """As in `Probe`, after sleeping if this was a section of compute."""
        if kind in COMPUTE:
            self._last_at_least(self._flops() / self.flops_per_s)
        super().mark(kind)

    @override
    def step_done(self) -> None:
        if self._warmup > 0:
            self.overrun = 0.0
        super().step_done()

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"overrun": self.overrun}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.overrun = state["overrun"]

    @override
    def stats(self) -> dict[str, Any]:
        """As in `Probe`, with `emulation_overrun`: the share of the time in which this machine was too
        slow."""
        stats = super().stats()
        return stats | {"emulation_overrun": self.overrun / stats["busy_s"] if stats["busy_s"] else 0.0}

    def _flops(self) -> int:
        """FLOPs of the section that ends now; 0 for a section that the first such work did not have."""
        if self._counter is not None:
            total = self._counter.get_total_flops()
            self._sections.append(total - self._counted)
            self._counted = total
        self._position += 1
        return self._sections[self._position - 1] if self._position <= len(self._sections) else 0

    def _last_at_least(self, seconds: float) -> None:
        """Sleep until the section has lasted `seconds`."""
        spent = self.clock() - self._last
        if spent > seconds:
            self.overrun += spent - seconds if self.training else 0.0
            return
        rest = seconds - self._late - spent
        if rest > 0:
            self.sleep(rest)
        self._late += self.clock() - self._last - seconds


def overrun_warning(stages: list[dict[str, Any]]) -> str | None:
    """A warning if this machine was too slow for what it emulates, or None; `stages` are the stages'
    reports."""
    worst = max(stages, key=lambda stage: stage["emulation_overrun"])
    share = worst["emulation_overrun"]
    if share <= OVERRUN_WARNING:
        return None
    return (
        f"this machine does not keep up with the devices that it emulates: {share:.0%} of stage "
        f"{worst['index']}'s time is work that took longer than there; lower --emulate-gflops"
    )
