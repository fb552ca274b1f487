"""Stages in loops: one whose neighbours are the test, or all of them in threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dni_async.messages import Marker, Message, TargetGradient
from dni_async.stage.stage import Stage
from tests.support.channels import TEST_TIMEOUT_S, MakeChannel
from tests.support.stages import show
from workers.runtime.channels import StageChannels
from workers.runtime.endpoints import Sink, Source
from workers.runtime.loop import StageLoop
from workers.runtime.probe import Probe, Throughput
from workers.transport.base import Receiver, Sender
from workers.transport.memory import memory_channel


@dataclass(slots=True)
class Far:
    """The other ends of a single stage's channels, in the hands of the test."""

    activations_in: Sender | None = None
    targets_out: Receiver | None = None
    activations_out: Receiver | None = None
    targets_in: Sender | None = None

    def close(self) -> None:
        for end in (self.activations_in, self.targets_out, self.activations_out, self.targets_in):
            if end is not None:
                end.close()


@contextmanager
def one_loop(
    stage: Stage,
    source: Iterable[Message] = (),
    channel: MakeChannel = memory_channel,
    capacity: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    **settings,
) -> Iterator[tuple[StageLoop, Far]]:
    """The loop of one stage of three (or the last of two); its neighbours are the test."""
    i, far = stage.index, Far()
    ends = StageChannels(Source(iter(source)), Sink(lambda marker: None))
    if i > 0:
        far.activations_in, ends.activations_in = channel(capacity, i - 1, i)
        ends.targets_out, far.targets_out = channel(capacity, i, i - 1)
    if not stage.is_last:
        ends.activations_out, far.activations_out = channel(capacity, i, i + 1)
        far.targets_in, ends.targets_in = channel(capacity, i + 1, i)
    try:
        yield StageLoop(stage, ends, Probe(clock=clock), Throughput(1, clock), **settings), far
    finally:
        far.close()
        close_all(ends)


def close_all(ends: StageChannels) -> None:
    for end in ends.ends:
        end.close()


@dataclass(slots=True)
class Run:
    """What stages in threads did."""

    markers: list[Marker]
    handled: list[list[str]]
    """By stage, in the order in which its messages were handled."""


def run_stages(
    stages: list[Stage],
    messages: Iterable[Message],
    channel: MakeChannel = memory_channel,
    capacity: int = 2,
    jitter: int | None = None,
    clock: Callable[[], Callable[[], float]] = lambda: time.perf_counter,
    under_way: dict[int, list[TargetGradient]] | None = None,
    **settings,
) -> Run:
    """Run every stage's loop in a thread of its own, to the end. Raises the first error of any.

    jitter: seed of random little delays, that shake the order in which things happen. clock: makes one
    for every stage. under_way: by stage, targets that are there before the first message.
    """
    markers: list[Marker] = []
    every = [StageChannels(Source(iter(messages)), Sink(markers.append)) for _ in stages]
    for i in range(len(stages) - 1):
        every[i].activations_out, every[i + 1].activations_in = channel(capacity, i, i + 1)
        every[i + 1].targets_out, every[i].targets_in = channel(capacity, i + 1, i)
    handled = [record(stage, jitter) for stage in stages]
    errors: list[BaseException] = []

    def body(stage: Stage, ends: StageChannels) -> None:
        torch.set_num_threads(1)
        now = clock()
        loop = StageLoop(
            stage,
            ends,
            Probe(clock=now),
            Throughput(1, now),
            timeout=TEST_TIMEOUT_S / 2,
            under_way=(under_way or {}).get(stage.index, ()),
            **settings,
        )
        try:
            loop.run()
        except BaseException as error:
            errors.append(error)
        finally:
            close_all(ends)

    pairs = zip(stages, every, strict=True)
    threads = [threading.Thread(target=body, args=pair, daemon=True) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT_S)
    assert not any(thread.is_alive() for thread in threads), f"stuck after {handled}"
    if errors:
        raise errors[0]
    return Run(markers, handled)


def record(stage: Stage, jitter: int | None = None) -> list[str]:
    """Writes down what a stage handles from now on."""
    handled: list[str] = []
    on, rng = stage.on, random.Random(jitter)

    def recording(message: Message) -> Iterator[Message]:
        handled.append(show(message) + ("'" if isinstance(message, Marker) and message.returning else ""))
        for out in on(message):
            if jitter is not None:
                time.sleep(rng.random() * 2e-3)
            yield out

    stage.on = recording  # type: ignore[method-assign]
    return handled


def steps(loop: StageLoop) -> int:
    """Let a loop do all that it may do now; the number of messages it handled."""
    count = 0
    while loop.step():
        count += 1
    return count
