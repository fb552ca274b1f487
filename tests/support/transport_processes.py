"""Runs both sides of the conformance suite, or of another play, in two processes."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from tests.support import forks
from tests.support.conformance import CAPACITY, TEST_TIMEOUT_S, Link, Side
from tests.support.conformance_runs import Outcome, Report, run_side
from workers.transport.base import Deadline

SUITE_TIMEOUT_S = 60.0
"""Seconds for the whole suite, start of the processes included."""

Open = Callable[[int, Path, Callable[[], object]], tuple[Link, Link, Callable[[], None]]]
"""(rank, folder, barrier) -> wide link, narrow link, what to call at the end."""
Play = Callable[[Side, Report], None]


def shm_links(rank: int, folder: Path, barrier: Callable[[], object]) -> tuple[Link, Link, Callable]:
    from workers.transport.shm import ShmListener, connect

    listeners = [ShmListener(1 - rank) for _ in range(2)]
    (folder / f"{rank}").write_text(" ".join(listener.address for listener in listeners))
    barrier()
    links = []
    addresses = (folder / f"{1 - rank}").read_text().split()
    for listener, address, capacity in zip(listeners, addresses, (CAPACITY, 1), strict=True):
        sender = connect(address, 1 - rank, capacity, TEST_TIMEOUT_S)
        links.append(Link(sender, listener.accept(TEST_TIMEOUT_S), capacity))
    return links[0], links[1], lambda: None


def tcp_links(rank: int, folder: Path, barrier: Callable[[], object]) -> tuple[Link, Link, Callable]:
    from tests.support.tcp_channels import SECRET, listen
    from workers.transport.tcp import connect

    listeners = [listen(1 - rank) for _ in range(2)]
    (folder / f"{rank}").write_text(" ".join(str(listener.address[1]) for listener in listeners))
    barrier()
    links = []
    ports = (folder / f"{1 - rank}").read_text().split()
    for listener, port, capacity in zip(listeners, ports, (CAPACITY, 1), strict=True):
        address = (listener.address[0], int(port))
        sender = connect(address, SECRET, 1 - rank, capacity, TEST_TIMEOUT_S, stripes=1 + capacity % 2)
        links.append(Link(sender, listener.accept(TEST_TIMEOUT_S), capacity))
    return links[0], links[1], lambda: None


def tls_links(rank: int, folder: Path, barrier: Callable[[], object]) -> tuple[Link, Link, Callable]:
    from tests.support.tcp_channels import listen
    from tests.support.tls_channels import tls_ends
    from workers.transport.certificates import make_certificate

    listeners, own = [listen(1 - rank) for _ in range(2)], make_certificate()
    (folder / f"{rank}").write_text(" ".join(str(listener.address[1]) for listener in listeners))
    (folder / f"{rank}.pem").write_text(own.text)
    barrier()
    ports, theirs = (folder / f"{1 - rank}").read_text().split(), (folder / f"{1 - rank}.pem").read_text()
    links = []
    for listener, port, capacity in zip(listeners, ports, (CAPACITY, 1), strict=True):
        address = (listener.address[0], int(port))
        links.append(Link(*tls_ends(listener, address, 1 - rank, capacity, own, theirs), capacity))
    return links[0], links[1], lambda: None


def dist_links(
    rank: int, folder: Path, barrier: Callable[[], object], timeout: float = TEST_TIMEOUT_S
) -> tuple[Link, Link, Callable]:
    import torch.distributed as dist

    from workers.transport.dist import DistReceiver, DistSender
    from workers.transport.dist_groups import make_groups

    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    links = []
    for capacity in (CAPACITY, 1):
        groups = make_groups([(0, 1)], timeout)
        there, back = groups[rank, 1 - rank], groups[1 - rank, rank]
        sender, receiver = DistSender(1 - rank, there), DistReceiver(1 - rank, back, capacity)
        links.append(Link(sender, receiver, capacity, slack=int(capacity == 1)))
    return links[0], links[1], dist.destroy_process_group


def rpc_links(rank: int, folder: Path, barrier: Callable[[], object]) -> tuple[Link, Link, Callable]:
    from workers.transport.rpc import RpcReceiver, RpcSender, start_rpc, stop_rpc

    start_rpc(rank, 2, TEST_TIMEOUT_S, f"file://{folder / 'store'}")
    links = []
    for name, capacity in (("wide", CAPACITY), ("narrow", 1)):
        sender = RpcSender(rank, 1 - rank, capacity, name)
        links.append(Link(sender, RpcReceiver(rank, 1 - rank, name), capacity))
    return links[0], links[1], lambda: stop_rpc(TEST_TIMEOUT_S, graceful=False)


def the_suite(side: Side, report: Report) -> None:
    """All metadata; at the end rank 0 survives and rank 1 kills itself."""
    run_side(side, report, kill=True)


def run_in_processes(
    open_links: Open,
    folder: Path,
    play: Play = the_suite,
    exits: tuple[int, int] = (0, -signal.SIGKILL),
    deadline: float = SUITE_TIMEOUT_S,
) -> Outcome:
    """Run a play over what `open_links` opens; every child is reaped before this returns."""
    context = forks.context()
    barrier = context.Barrier(2, timeout=TEST_TIMEOUT_S)
    ears, children = [], []
    try:
        for rank in (0, 1):
            ear, mouth = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(open_links, play, rank, folder, barrier, mouth))
            child.start()
            mouth.close()
            ears.append(ear)
            children.append(child)
        reports = _listen(ears, Deadline(deadline))
        for child in children:
            child.join(5.0)
        assert [child.exitcode for child in children] == [*exits], reports
        return Outcome(reports)
    finally:
        for child, ear in zip(children, ears, strict=True):
            child.kill()
            child.join()
            child.close()
            ear.close()


def _listen(ears: list[Connection], deadline: Deadline) -> list[dict[str, str]]:
    """Collect the reports until both children ended or time is up."""
    reports: list[dict[str, str]] = [{} for _ in ears]
    talking = list(ears)
    while talking and (ready := wait(talking, deadline.left())):
        for ear in ready:
            assert isinstance(ear, Connection)
            try:
                name, trouble = ear.recv()
                reports[ears.index(ear)][name] = trouble
            except EOFError:
                talking.remove(ear)
    return reports


def _child(open_links: Open, play: Play, rank: int, folder: Path, barrier, mouth: Connection) -> None:
    torch.set_num_threads(1)
    try:
        wide, narrow, finish = open_links(rank, folder, barrier.wait)
        side = Side(rank, wide, narrow, barrier.wait)
        play(side, lambda name, trouble: mouth.send((name, trouble)))
        finish()
    except BaseException:
        mouth.send(("start and end", traceback.format_exc()))
        raise
