"""A worker of a loader ends with its rank, and holds none of its sockets."""

from __future__ import annotations

import os
import socket
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from tests.support.forks import context
from tests.support.waiting import until
from workers.runtime.loader_worker import WorkerStart, replace_sockets

DEADLINE_S = 30.0


def _replace(report: Connection) -> None:
    near, far = socket.socketpair()
    reader, writer = os.pipe()
    replace_sockets()
    os.write(writer, b"a")
    report.send((near.recv(1), far.recv(1), os.read(reader, 1)))  # (a socket would wait for the other)


def test_sockets_are_replaced_by_closed_ones_and_pipes_stay() -> None:
    here, there = context().Pipe(duplex=False)
    process = context().Process(target=_replace, args=(there,))
    process.start()
    try:
        assert here.poll(DEADLINE_S)
        assert here.recv() == (b"", b"", b"a")
    finally:
        process.kill()
        process.join()
        here.close()
        there.close()


def _rank(folder: str, forked: bool) -> None:
    """A rank that has a worker and waits for its own end."""
    start = WorkerStart(partial(_write, folder))
    if forked:
        if os.fork() == 0:
            start(0)
            _sleep()
    else:  # the worker is a child of the fork server
        context().Process(target=_begin, args=(start,)).start()
    _sleep()


def _write(folder: str, worker: int) -> None:
    Path(folder, "worker").write_text(f"{os.getpid()} {os.getsid(0)}")


def _begin(start: WorkerStart) -> None:
    start(0)
    _sleep()


def _sleep() -> None:
    while True:
        socket.socketpair()[0].recv(1)


def _worker_of_killed_rank(folder: Path, forked: bool) -> psutil.Process:
    rank = context().Process(target=_rank, args=(str(folder), forked))
    rank.start()
    try:
        until(
            lambda: (folder / "worker").exists() and bool((folder / "worker").read_text()),
            DEADLINE_S,
            "start",
        )
        pid, session = map(int, (folder / "worker").read_text().split())
        worker = psutil.Process(pid)
        assert worker.is_running() and session != os.getsid(rank.pid or 0)
    finally:
        rank.kill()
        rank.join()
    return worker


def _is_gone(worker: psutil.Process) -> bool:
    try:
        return worker.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_forked_worker_has_a_session_of_its_own_and_ends_with_its_rank(tmp_path: Path) -> None:
    worker = _worker_of_killed_rank(tmp_path, forked=True)
    until(lambda: _is_gone(worker), DEADLINE_S, "the end of the worker")


def test_a_worker_of_the_fork_server_ends_with_its_rank(tmp_path: Path) -> None:
    worker = _worker_of_killed_rank(tmp_path, forked=False)
    until(lambda: _is_gone(worker), DEADLINE_S, "the end of the worker")
