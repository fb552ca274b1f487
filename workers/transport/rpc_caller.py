"""Calls by torch.distributed.rpc to the process of one other stage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed.rpc as rpc

from workers.transport.base import Deadline, PeerGone, TransportError

PING_INTERVAL_S = 1.0
CLOSE_TIMEOUT_S = 5.0
"""How long `close` waits for the answers to calls under way."""


def worker_name(rank: int) -> str:
    """What rpc calls the process of a stage."""
    return f"stage{rank}"


class Caller:
    """Makes calls to stage `peer` and pings it once a second; calls `fail` when a call fails."""

    def __init__(self, peer: int, fail: Callable[[TransportError], None]) -> None:
        self._peer = peer
        self._fail = fail
        self._pending: dict[int, int] = {}
        """Bytes of each call that was not answered yet."""
        self._calls = 0
        self._idle = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ping, name=f"ping {peer}", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., None], *args: object) -> None:
        """Run `function(*args)` at the peer."""
        size = sum(tensor.nbytes for arg in args if isinstance(arg, list) for tensor in arg)
        try:
            with self._idle:
                future = rpc.rpc_async(worker_name(self._peer), function, args=args)
                self._calls += 1
                self._pending[self._calls] = size
                done = partial(self._done, self._calls)
            future.add_done_callback(done)
        except RuntimeError as error:
            self._report(error)

    def pending_bytes(self) -> int:
        """Bytes of the tensors in calls that were not answered yet."""
        with self._idle:
            return sum(self._pending.values())

    def close(self, function: Callable[..., None], *args: object) -> None:
        """Make one last call and wait up to CLOSE_TIMEOUT_S for all answers. May be called twice."""
        if self._stop.is_set():
            return
        self.call(function, *args)
        self._stop.set()
        deadline = Deadline(CLOSE_TIMEOUT_S)
        self._thread.join(deadline.left())
        with self._idle:
            while self._pending and deadline.left():
                self._idle.wait(deadline.left())

    def _done(self, call: int, future: torch.futures.Future) -> None:
        try:
            future.wait()
        except Exception as error:  # whatever the peer raised
            self._report(error)
        with self._idle:
            del self._pending[call]
            self._idle.notify_all()

    def _report(self, error: Exception) -> None:
        cause = str(error).strip().splitlines() or [repr(error)]
        self._fail(PeerGone(f"stage {self._peer} is gone ({cause[0]})"))

    def _ping(self) -> None:
        while not self._stop.wait(PING_INTERVAL_S):
            self.call(_nothing)


def _nothing() -> None:
    """Called as a ping."""
