"""Where the time of a stage goes: every moment belongs to exactly one kind of work.

    handle                          send  send
    wait  | forward | send | backward | send | update | wait | sg | wait | ...

The loop and the stage call `mark(kind)` when a piece of work ends; it gets all time since the last one.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import psutil
import torch

from dni_async.messages import Activation, Marker, Message, TargetGradient
from workers.runtime.cuda import accelerator_of

COMPUTE = ("forward", "backward", "update", "sg", "head", "evaluate")
"""Kinds of work that count as busy."""

Event = tuple[str, float, float, int]
"""Kind, start and end in seconds of the clock, step."""


def is_training(message: Message) -> bool:
    """Whether this message belongs to a training batch."""
    return isinstance(message, TargetGradient) or (isinstance(message, Activation) and message.train)


def work_of(message: Message) -> Hashable:
    """Equal for messages that cost a stage the same: kind and shape; None for markers, which are free."""
    if isinstance(message, Marker):
        return None
    tensor = message.h if isinstance(message, Activation) else message.grad
    return type(message), is_training(message), tensor.shape


class Probe:
    """Totals per kind of work, and the last `limit` events for the timeline.

    Totals count training only, and only after `warmup` training steps, so that they describe the
    steady state; events are kept from the start.
    """

    shortest = 5e-6
    """Seconds; a shorter event counts in the totals and is not kept."""

    def __init__(
        self, warmup: int = 0, limit: int = 20_000, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.clock = clock
        self.events: deque[Event] = deque(maxlen=limit)
        self.training = False
        """Whether the work at hand belongs to a training batch."""
        self.step = 0
        self.totals: dict[str, float] = {}
        self._warmup = warmup
        self._last = clock()

    def begin(self, step: int, training: bool, before: str = "wait", work: Hashable = None) -> None:
        """Begin a message; the time since the last mark was spent on `before`.

        Args:
            work: what `work_of` returned for the message.
        """
        self.step, self.training = step, training
        self.mark(before)

    def end(self) -> None:
        """The message has been handled."""

    def mark(self, kind: str) -> None:
        """Count the time since the last mark as work of this kind."""
        self._add(kind, self.clock(), self.training, self.step)

    def _add(self, kind: str, now: float, training: bool, step: int) -> None:
        if training:
            self.totals[kind] = self.totals.get(kind, 0.0) + now - self._last
        if now - self._last > self.shortest:
            self.events.append((kind, self._last, now, step))
        self._last = now

    def step_done(self) -> None:
        """Count a training step; at the end of the warm-up the totals start from zero."""
        if self._warmup > 0:
            self._warmup -= 1
            self.totals.clear()

    def state_dict(self) -> dict[str, Any]:
        """What the probe of a restarted stage continues from, JSON-able."""
        return {"totals": self.totals, "warmup": self._warmup}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what an earlier process has saved."""
        self.totals, self._warmup = state["totals"], state["warmup"]

    def stats(self) -> dict[str, Any]:
        """Seconds by kind, and the utilisation: the share of wall-clock in which the stage computes."""
        total = sum(self.totals.values())
        busy = sum(self.totals.get(kind, 0.0) for kind in COMPUTE)
        return {
            "busy_s": busy,
            "wait_s": self.totals.get("wait", 0.0),
            "send_s": self.totals.get("send", 0.0),
            "load_s": self.totals.get("load", 0.0),
            "sg_s": self.totals.get("sg", 0.0),
            "head_s": self.totals.get("head", 0.0),
            "utilisation": busy / total if total else 0.0,
        }

    def timeline(self) -> list[list[Any]]:
        """[kind, start, duration, step] of each kept event, in microseconds of the clock."""
        return [[kind, round(a * 1e6, 1), round((b - a) * 1e6, 1), step] for kind, a, b, step in self.events]


class Throughput:
    """Samples per second of training in the steady state.

    After every pause (the start, an evaluation) `warmup` steps pass before counting begins, so that
    batches that queued up meanwhile do not flatter the number:

        step      1 ... warmup   |  count from here ... last step   |  evaluation = pause
    """

    def __init__(self, warmup: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.warmup = max(1, warmup)
        self.clock = clock
        self.samples = 0
        self.seconds = 0.0
        self._skip = self.warmup
        self._last = 0.0

    def trained(self, samples: int) -> None:
        """Count the training step that has just ended."""
        now = self.clock()
        if self._skip:
            self._skip -= 1
        else:
            self.samples += samples
            self.seconds += now - self._last
        self._last = now

    def pause(self) -> None:
        """Stop counting until `warmup` more steps are done: something else than training happens now."""
        self._skip = self.warmup

    def per_second(self) -> float | None:
        """Samples per second; None until something was counted."""
        return self.samples / self.seconds if self.seconds else None


def process_metadata(device: torch.device) -> dict[str, Any]:
    """Who this process is, the memory that it holds and the most that it ever held, in bytes; of a GPU the
    most in tensors."""
    held = psutil.Process().memory_info().rss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    accelerator = accelerator_of(device)
    gpu = {"peak_gpu_bytes": accelerator.peak_bytes()} if accelerator else {}
    return gpu | {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "rss_bytes": held,
        "peak_rss_bytes": max(peak, held),
    }


def warmup_steps(steps_per_epoch: int) -> int:
    """Steps that do not count: ten, or a quarter of a short epoch."""
    return min(10, max(1, steps_per_epoch // 4))
