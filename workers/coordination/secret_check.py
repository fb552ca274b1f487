"""Whether all ranks that the user started have the same secret.

A rank with another secret would refuse everything that the others publish, one value after the other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch.distributed as dist

from dni_async.errors import StageError, UserError
from workers.coordination.signing import JOB_SECRET, sign
from workers.coordination.store_connection import poll

_LEAVE_TIMEOUT_S = 3.0
"""For the other ranks to compare, too, before rank 0 ends because of a wrong secret."""


def check_secrets(store: dist.Store, rank: int, world: int, secret: bytes, timeout: float) -> None:
    """Compare this rank's secret, if it has one, with those of the others; every rank must call it.

    What is published tells nobody the secret.

    Raises:
        UserError: another rank has another secret.
        StageError: another rank did not come within `timeout` seconds.
    """
    mine = sign(secret, "secret", None)
    store.set(f"secret/{rank}", mine)
    if not secret:
        return
    others = [other for other in range(world) if other != rank]
    if (late := _first_late(store, [f"secret/{other}" for other in others], timeout)) is not None:
        raise StageError(f"rank {rank} waited {timeout:g} s for rank {others[late]}")
    wrong = [other for other in others if store.get(f"secret/{other}") != mine.encode()]
    store.set(f"compared/{rank}", "")
    if wrong:
        if rank == 0:  # the store may end with this rank
            _first_late(store, [f"compared/{other}" for other in others], _LEAVE_TIMEOUT_S)
        raise UserError(
            f"rank {rank} has another secret than rank {wrong[0]}; set {JOB_SECRET} to the same text on all "
            "hosts"
        )


def _first_late(store: dist.Store, keys: Sequence[str], timeout: float) -> int | None:
    """Wait for the keys; returns the index of the first that did not come, or None."""
    deadline = time.monotonic() + timeout
    for index, key in enumerate(keys):
        if not poll(partial(store.check, [key]), deadline - time.monotonic()):
            return index
    return None
