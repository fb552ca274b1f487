"""torch.profiler over some training steps of one rank.

probe.begin(step 99)   begin(100)                 begin(101)  ...            begin(110)
                       │ profiler starts ── ProfilerStep#100 ── ProfilerStep#101 ── profiler stops, writes ──►
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from workers.checkpoint.atomic_file import write_whole
from workers.runtime.probe import Probe

CLOCK = "clock"
"""Key in the trace: microseconds of `time.perf_counter` at the beginning of the event of this name."""
CLOCK_EVENT = "dni_async clock"


class StepProfiler:
    """Records the steps of a range, and writes their trace to a file.

    Args:
        path: of the file, in Chrome's trace format.
        rank, world: this process and the number of all, which HTA reads in the trace.
    """

    def __init__(self, steps: range, path: Path, rank: int, world: int) -> None:
        self.steps = steps
        """Those that it still has to record; empty when it is done."""
        self.path = path
        self._about = {"rank": rank, "world_size": world, "backend": "gloo"}
        self._profile: Any = None
        self._step: Any = None
        self._clock = 0.0
        self._last = -1

    def attach(self, probe: Probe) -> None:
        """Follow the steps that a probe sees; without a profiler a probe does no work for it."""
        begin = probe.begin

        def begin_profiled(step: int, training: bool, before: str = "wait", work: Hashable = None) -> None:
            begin(step, training, before, work)
            if training and step > self._last:  # a target is of an earlier step
                self._last = step
                self._begin(step)

        probe.begin = begin_profiled  # type: ignore[method-assign]

    def _begin(self, step: int) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None
        if step in self.steps:
            if self._profile is None:
                self._start()
            self._step = record_function(f"ProfilerStep#{step}")
            self._step.__enter__()
        elif step >= self.steps.stop:
            self.finish()

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_initialized():
            activities.append(ProfilerActivity.CUDA)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints when it starts and stops
        self._profile = profile(activities=activities)
        self._profile.__enter__()
        self._clock = time.perf_counter() * 1e6
        with record_function(CLOCK_EVENT):
            pass

    def finish(self) -> None:
        """Stop and write the trace, if it was started; a second call does nothing.

        A line says so if the trace cannot be written.
        """
        if self._profile is None:
            return
        if self._step is not None:
            self._step.__exit__(None, None, None)
        self._profile.__exit__(None, None, None)
        try:
            self._write()
        except (OSError, RuntimeError, ValueError) as error:
            cause = " ".join(str(error).split())[:120]
            line = f"cannot write {self.path} ({cause}); training goes on"
            print(f"dni-async: {line}", file=sys.stderr, flush=True)
        self._profile = self._step = None
        self.steps = range(0)

    def _write(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self._profile.export_chrome_trace(str(self.path))
        trace = json.loads(self.path.read_text(encoding="utf-8"))
        trace |= {"distributedInfo": trace.get("distributedInfo", self._about), CLOCK: self._clock}
        write_whole(self.path, json.dumps(trace).encode())
