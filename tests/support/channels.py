"""Stages in threads over channels of one process, clocks that tick when told, and children to supervise."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import Tensor

from dni_async.messages import Marker, Message, TargetGradient
from dni_async.stage.stage import Stage
from tests.support import forks
from tests.support.stages import show
from workers.failure.rank_runner import RankRunner
from workers.failure.signals import exit_process
from workers.runtime.channels import StageChannels
from workers.runtime.endpoints import Sink, Source
from workers.runtime.loop import StageLoop
from workers.runtime.probe import Probe, Throughput
from workers.transport.base import Receiver, Sender
from workers.transport.cuda_copies import copy_out
from workers.transport.memory import memory_channel
from workers.transport.shm import ShmListener, connect

TEST_TIMEOUT_S = 40.0
"""Seconds after which something that should happen did not."""

MakeChannel = Callable[[int, int, int], tuple[Sender, Receiver]]
"""(capacity, sender's stage, receiver's stage) -> both ends."""


def shm_channel(capacity: int, sender_stage: int = 0, receiver_stage: int = 1) -> tuple[Sender, Receiver]:
    """As `memory_channel`, through shared memory and a socket."""
    listener = ShmListener(sender_stage)
    sender = connect(listener.address, receiver_stage, capacity, TEST_TIMEOUT_S)
    return sender, listener.accept(TEST_TIMEOUT_S)


class Copying:
    """A GPU's copy into a slot as the host sees it: under way until `finished`, or asked for very often."""

    def __init__(self, patience: int = 10) -> None:
        self.finished = False
        self._patience = patience

    def query(self) -> bool:
        """Whether it is done."""
        self._patience -= 1
        return self.finished or self._patience < 0


def late_channel(capacity: int, sender_stage: int = 0, receiver_stage: int = 1) -> tuple[Sender, Receiver]:
    """As `shm_channel`, with copies that end late."""
    sender, receiver = shm_channel(capacity, sender_stage, receiver_stage)
    sender.copy_out = copy_late  # type: ignore[attr-defined]
    return sender, receiver


def copy_late(places: Sequence[Tensor], tensors: Sequence[Tensor]) -> Copying:
    """In place of `copy_out`."""
    copy_out(places, tensors)
    return Copying()


CHANNELS: dict[str, MakeChannel] = {"memory": memory_channel, "shm": shm_channel}
GPU_LIKE = CHANNELS | {"late": late_channel}
"""A message may leave such a channel only when the sender looks again or sleeps."""


class Clock:
    """Shows `now`, which `tick` seconds pass between two looks."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 0.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


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


# --- processes ----------------------------------------------------------------------------------


Work = Callable[[RankRunner, Connection], None]
"""A rank's work; the connection goes to the test."""


class Child:
    """A guarded process that does `work`; killed and reaped at the end of the `with` block."""

    def __init__(self, work: Work, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ear, self._mouth = forks.context().Pipe(duplex=False)
        arguments = (work, folder, environment, self._mouth)
        self.process: BaseProcess = forks.context().Process(target=_child, args=arguments)

    def __enter__(self) -> Child:
        self.process.start()
        self._mouth.close()
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.ear.close()

    def hear(self) -> object:
        """What the work sends, in time."""
        assert self.ear.poll(TEST_TIMEOUT_S), "the child said nothing"
        return self.ear.recv()

    def status(self) -> int | None:
        """Its exit status, in time."""
        self.process.join(TEST_TIMEOUT_S)
        assert self.process.exitcode is not None, "the child did not end"
        return self.process.exitcode

    def lines(self) -> list[str]:
        """What it wrote to stderr."""
        return (self.folder / "stderr").read_text().splitlines()


def _child(work: Work, folder: Path, environment: dict[str, str], mouth: Connection) -> None:
    os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.environ.update(environment)
    runner = RankRunner()
    runner.folder = folder
    exit_process(runner.run(lambda runner: work(runner, mouth)))
