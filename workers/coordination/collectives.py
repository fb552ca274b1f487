"""Collective operations among all ranks of a job, and torch's default process group.

Stages of the decoupled engines only know their neighbours; the baselines go through every step together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dni_async.errors import UserError
from workers.coordination.interruptible import OVERTIME_S, interruptible
from workers.coordination.rendezvous import Rendezvous
from workers.coordination.store_connection import POLL_INTERVAL_S
from workers.runtime.cuda import accelerator_of

GONE_TIMEOUT_S = 1.0
"""Time from a broken connection until the system must know that the process at its end is gone."""


THROUGH_HOST = "ranks share a GPU, so tensors between them went through host memory (gloo, not NCCL)"


class Peers:
    """All ranks of a job. Objects must be JSON-able. A rank alone sends nothing."""

    def __init__(self, rendezvous: Rendezvous, through_host: bool = False) -> None:
        self._rendezvous = rendezvous
        self.through_host = through_host
        """Whether tensors on a GPU go through host memory, as ranks that share a GPU have no NCCL."""
        self.rank, self.world = rendezvous.rank, rendezvous.world

    def gather(self, mine: Any) -> list[Any] | None:
        """The objects of all ranks, on rank 0, and None elsewhere; every rank must call it."""
        if self.world == 1:
            return [mine]
        everything = [None] * self.world if self.rank == 0 else None
        dist.gather_object(mine, everything)
        return everything

    def broadcast(self, value: Any) -> Any:
        """The value that rank 0 passes, on every rank; every rank must call it."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def sum(self, number: int) -> int:
        """The sum of the numbers of all ranks, on every rank; every rank must call it."""
        if self.world == 1:
            return number
        total = torch.tensor(number)
        dist.all_reduce(total)
        return int(total)

    def norm(self, own: Tensor) -> Tensor:
        """The norm of the parts of all ranks together, from that of this rank's part, a scalar on the job's
        device; every rank must call it."""
        square = own.square()
        if self.world > 1 and self.through_host:
            on_host = square.cpu()
            dist.all_reduce(on_host)
            square = on_host.to(own.device)
        elif self.world > 1:
            dist.all_reduce(square)
        return square.sqrt()

    def latest(self, mine: Any) -> list[Any] | None:
        """What every rank passed last, on rank 0, without waiting; None if a rank passed nothing so far."""
        if self.rank > 0:
            self._rendezvous.publish(f"latest/{self.rank}", mine)
            return None
        keys = [f"latest/{rank}" for rank in range(1, self.world)]
        others = self._rendezvous.peek_all(keys)
        return [mine, *others.values()] if len(others) == len(keys) else None

    def gone(self) -> list[int]:
        """Other ranks whose process has ended; for use soon after a connection broke."""
        end = time.monotonic() + GONE_TIMEOUT_S
        while self.world > 1:
            gone = [rank for rank in self._rendezvous.gone_ranks() if rank != self.rank]
            if gone or time.monotonic() > end:
                return gone
            time.sleep(POLL_INTERVAL_S)
        return []


@contextmanager
def process_group(rendezvous: Rendezvous, timeout: float, device: torch.device) -> Iterator[Peers]:
    """The peers, joined in torch's default process group (none for a rank alone).

    The group has NCCL only where every rank has a GPU of its own.

    After a failure the group is not destroyed: that waits for peers, and the process is about to end.
    """
    through_host = False
    if rendezvous.world > 1:
        rendezvous.gather_hosts(timeout)
        through_host = device.type == "cuda" and (
            not dist.is_nccl_available() or shared_gpus(rendezvous, device, timeout)
        )
        start_group(rendezvous, timeout, torch.device("cpu") if through_host else device)
    yield Peers(rendezvous, through_host)
    if rendezvous.world > 1:
        dist.destroy_process_group()


def start_group(rendezvous: Rendezvous, timeout: float, device: torch.device) -> None:
    """Make the default process group of all ranks: gloo, and NCCL for tensors on a GPU.

    Args:
        timeout: seconds that any operation may wait.

    Raises:
        UserError: this torch has no such backend.
    """
    _check_backends(device)
    interruptible(
        lambda: dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", rendezvous.store),
            rank=rendezvous.rank,
            world_size=rendezvous.world,
            timeout=timedelta(seconds=timeout),
        ),
        timeout + OVERTIME_S,
        f"rank {rendezvous.rank} could not make the process group",
    )


def shared_gpus(rendezvous: Rendezvous, device: torch.device, timeout: float) -> bool:
    """Whether two ranks compute on the same GPU, whatever number it has for each; every rank must call it."""
    accelerator = accelerator_of(device)
    assert accelerator is not None, device
    found = rendezvous.all_gather("gpus", accelerator.identity(), timeout)
    return len(set(found)) < len(found)


def _check_backends(device: torch.device) -> None:
    if not (dist.is_available() and dist.is_gloo_available()):
        raise UserError(
            "this torch has no gloo, by which processes meet; install a build that has it, "
            "or run in one process"
        )
    if device.type == "cuda" and not dist.is_nccl_available():
        raise UserError("this torch has no NCCL, by which GPUs meet; install a build that has it")
