"""The connection to the rendezvous store of a job, which is made again when it breaks.

question ── broken ──► somebody listens there: a new connection, and the same question again
                  └──► nobody listens there, or its host stays out of reach: the error
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")

POLL_INTERVAL_S = 0.02
"""Time between two looks into the store."""
_CONNECT_INTERVAL_S = 0.1
"""Time between two attempts to reach the store."""
_ATTEMPT_TIMEOUT_S = 1.0


def ask(store: dist.Store, question: Callable[[dist.Store], T]) -> tuple[T, dist.Store]:
    """What the store answers, and the connection to use from now on.

    Raises dist.DistNetworkError when nobody listens there any more, or the store's timeout has passed.
    """
    try:
        return question(store), store
    except dist.DistNetworkError:
        timeout = store.timeout  # type: ignore[attr-defined]  # public, but not in torch's stubs
        if not is_listening(timeout.total_seconds()):
            raise
        store = store.clone()  # type: ignore[attr-defined]
        store.set_timeout(timeout)
        return question(store), store


def poll(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until the condition holds; False when it did not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def await_listener(host: str, port: int, timeout: float) -> None:
    """Return when something listens at `host`:`port`; raises OSError at the deadline.

    torch's own attempts print dozens of lines, and may last for minutes.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=_ATTEMPT_TIMEOUT_S).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_CONNECT_INTERVAL_S)


def is_listening(timeout: float) -> bool:
    """Whether something listens where this job's store is, which may be out of reach for `timeout` s."""
    deadline = time.monotonic() + timeout
    while not (gone := is_gone()):
        if gone is not None:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_CONNECT_INTERVAL_S)
    return False


def is_gone() -> bool | None:
    """Whether nobody listens any more where this job's store is; None if its host is out of reach."""
    if "MASTER_PORT" not in os.environ:
        return True
    try:
        await_listener(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), 0.0)
        return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return None
