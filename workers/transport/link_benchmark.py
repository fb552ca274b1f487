"""What a message costs: measured between two processes of this machine, apart from any training.

    sender    | send |                 wait for the credit            | send | ...
    receiver         |-- latency --| receive |----------- credit -----|

Both processes read the system's monotonic clock, which the processes of a host share. They wait as the stages
of a job do: they poll for a while before they sleep, where each has a core of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist

from dni_async.errors import StageError
from dni_async.messages import TargetGradient
from workers.coordination.loopback import LOOPBACK, check_loopback, local_store
from workers.coordination.rendezvous import Rendezvous
from workers.failure.signals import exit_with_parent
from workers.runtime.accelerator import wait_for
from workers.runtime.cuda import accelerator_of
from workers.runtime.device import place
from workers.transport.base import Deadline, Waitable, wait_any
from workers.transport.connect import open_links
from workers.transport.cuda_copies import move
from workers.transport.link_cost import LinkCost, Ping, fit
from workers.transport.links import Link

SIZES = (4096, 65536, 1 << 20, 1 << 22)
"""Bytes of the messages that are sent."""
_END_TIMEOUT_S = 5.0


def ping(
    transports: Sequence[str],
    *,
    device: str = "cpu",
    sizes: Sequence[int] = SIZES,
    repeats: int = 15,
    timeout: float = 60.0,
    context: BaseContext | None = None,
) -> Ping:
    """Start two processes, send messages over each transport, and let gloo sum over both.

    Raises StageError when they do not answer in `timeout` seconds.
    """
    context = context or multiprocessing.get_context("spawn")
    check_loopback()
    store = local_store()
    names = tuple(dict.fromkeys([*transports, "dist"]))
    job = _Job(names, device, tuple(sizes), repeats, timeout, secrets.token_bytes(32))
    results, send_results = context.Pipe(duplex=False)
    processes: list[BaseProcess] = [
        context.Process(target=_rank, args=(job, rank, store.port, send_results), daemon=True)  # type: ignore[attr-defined]
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    send_results.close()
    try:
        measured = _await_results(results, processes, timeout)
        for process in processes:
            process.join(_END_TIMEOUT_S)  # they are closing their links
    finally:
        for process in processes:
            process.kill()
            process.join(_END_TIMEOUT_S)
    links = {name: LinkCost(*(fit(sizes, seconds) for seconds in measured[name])) for name in job.transports}
    arrival = {name: [sum(pair) for pair in zip(*measured[name][:2], strict=True)] for name in job.transports}
    return Ping(links, fit([size // 2 for size in sizes], [s / 2 for s in measured["all_reduce"]]), arrival)


def _await_results(results: Connection, processes: Sequence[BaseProcess], timeout: float) -> dict[str, Any]:
    """What both processes have measured. Raises StageError if one fails."""
    failed = StageError("measuring messages failed; the reason stands above")
    deadline = Deadline(timeout)
    running = list(processes)
    while not results.poll() and deadline.left() and running:
        connection.wait([results, *(process.sentinel for process in running)], deadline.left())
        running = [process for process in running if process.exitcode is None]
        if any(process.exitcode for process in processes):
            raise failed
    if not results.poll():
        raise StageError(f"measuring messages took longer than {timeout:g} s; raise --timeout")
    try:
        return dict(results.recv())
    except EOFError:  # both are gone
        raise failed from None


@dataclass(frozen=True, slots=True)
class _Job:
    transports: tuple[str, ...]
    device: str
    sizes: tuple[int, ...]
    repeats: int
    timeout: float
    secret: bytes


def _rank(job: _Job, rank: int, port: int, send_results: Connection) -> None:
    exit_with_parent(signal.SIGKILL)
    os.environ |= {  # rpc reads these: our store in the place of torchrun's
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    store = dist.TCPStore(LOOPBACK, port, timeout=timedelta(seconds=job.timeout), wait_for_workers=False)
    placement = place(job.device, 1, rank, 2)
    device = placement.device

    def wait(end: Waitable) -> None:
        wait_any([end], job.timeout, placement.alone)

    measured: dict[str, Any] = {}
    for name in job.transports:
        rendezvous = Rendezvous(rank, 2, rank, 2, dist.PrefixStore(name, store), secret=job.secret)
        rendezvous.gather_hosts(job.timeout)  # makes all transports use the loopback interface
        with open_links(rendezvous, [name], 1, job.timeout, device) as links:
            link = links.upstream or links.downstream
            assert link is not None
            measured[name] = _exchange(job, rendezvous, link, device, wait)
            if name == "dist":
                measured["all_reduce"] = [_all_reduce(size, job.repeats) for size in job.sizes]
    if rank == 0:
        send_results.send(measured)


def _exchange(
    job: _Job, rendezvous: Rendezvous, link: Link, device: torch.device, wait: Callable[[Waitable], None]
) -> list[list[float]]:
    """Median seconds of send, latency, receive and credit, each by size, on rank 0; [] on rank 1."""
    times = [
        [_turn(link, rendezvous.rank, size, device, job.timeout, wait) for _ in range(job.repeats + 1)][1:]
        for size in job.sizes
    ]
    if rendezvous.rank == 1:
        rendezvous.publish("times", times)
        rendezvous.read("read", job.timeout)  # the other still reads from the link
        return []
    others = rendezvous.read("times", job.timeout)
    rendezvous.publish("read", True)
    columns: list[list[float]] = [[], [], [], []]
    for mine, theirs in zip(times, others, strict=True):
        rows = [_parts(*a, *b) for a, b in zip(mine, theirs, strict=True)]
        for column, values in zip(columns, zip(*rows, strict=True), strict=True):
            column.append(statistics.median(values))
    return columns


def _parts(begun: float, sent: float, credit: float, there: float, released: float) -> tuple[float, ...]:
    return sent - begun, max(0.0, there - sent), released - there, max(0.0, credit - released)


def _turn(
    link: Link,
    rank: int,
    size: int,
    device: torch.device,
    timeout: float,
    wait: Callable[[Waitable], None],
) -> tuple[float, ...]:
    """Send one message from rank 0 to rank 1.

    Returns the times of: on rank 0 the call of `send`, its return and the credit; on rank 1 the arrival and
    the release.
    """
    clock = time.perf_counter
    if rank == 0:
        message = TargetGradient(0, 0, torch.ones(size // 4, device=device))
        computed(device, timeout)
        begun = clock()
        link.sender.send(message, timeout)
        sent = clock()
        link.sender.flush(timeout)
        while not link.sender.ready():  # with room for one message: not before its credit is back
            wait(link.sender)
        return begun, sent, clock()
    while not link.receiver.poll():
        wait(link.receiver)
    if accelerator_of(device) is None:
        there = clock()
        link.receiver.recv(timeout)
    else:  # it is there when it is on the GPU
        wait_for(move(link.receiver.recv(timeout), device), timeout)
        there = clock()
    link.receiver.release()
    return there, clock()


def computed(device: torch.device, timeout: float) -> None:
    """Wait until a GPU has done its work."""
    if accelerator := accelerator_of(device):
        accelerator.synchronize(timeout)


def _all_reduce(size: int, repeats: int) -> float:
    """Median seconds to sum `size` bytes over both processes: two steps of a ring, of half of it each."""
    tensor = torch.ones(size // 4)
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        dist.all_reduce(tensor)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])
