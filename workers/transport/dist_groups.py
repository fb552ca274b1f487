"""The process groups of the `dist` and `nccl` transports: two for each link, one for each direction."""

from __future__ import annotations

import atexit
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from workers.runtime.accelerator import Accelerator
from workers.transport.base import Channel, Receiver
from workers.transport.lanes import Lane


@dataclass(frozen=True, slots=True)
class Groups:
    """The process groups of one channel. Header and payload share one unless the payload goes by NCCL."""

    header: dist.ProcessGroup
    payload: dist.ProcessGroup
    timeout: float
    """Seconds that an operation may wait for its counterpart."""
    device: torch.device
    """Of payloads on their way: the CPU for gloo, the GPU for NCCL."""
    ends: set[Channel] = field(repr=False)
    """Open ends of these groups and of those made together with them."""
    accelerator: Accelerator | None = None
    """Of the device on which stages compute."""

    def lane(self) -> Lane:
        """Return a lane for one end."""
        return Lane(self.accelerator, self.timeout)


def make_groups(
    links: Iterable[tuple[int, int]],
    timeout: float,
    accelerator: Accelerator | None = None,
    nccl: bool = False,
) -> dict[tuple[int, int], Groups]:
    """Groups of both channels of every link (a pair of ranks), by (sender's rank, receiver's rank).

    Every rank of the default group calls this with the same links in the same order, also the ranks
    that have no part in a link.

    Args:
        accelerator: of the device on which stages compute.
        nccl: whether payloads go from GPU to GPU by NCCL, or through host memory.

    Raises:
        RuntimeError: the default group is not initialised.
        TransportTimeout: NCCL could not connect two ranks in time.
    """
    span = timedelta(seconds=timeout)
    device = accelerator.device if accelerator and nccl else torch.device("cpu")
    groups: dict[tuple[int, int], Groups] = {}
    ends: set[Channel] = set()
    atexit.register(_close_all, ends)
    for link in links:
        for source, destination in (link, link[::-1]):
            header = payload = dist.new_group(sorted(link), timeout=span, backend="gloo")
            if nccl:
                payload = dist.new_group(sorted(link), timeout=span, backend="nccl")
            groups[source, destination] = Groups(header, payload, timeout, device, ends, accelerator)
    if nccl:
        _connect(groups)
    return groups


def _connect(groups: dict[tuple[int, int], Groups]) -> None:
    """Send a byte over each channel, one after the other in the same order on all ranks: NCCL connects two
    ranks when they first talk, and both must do that at the same time."""
    rank = dist.get_rank()
    for (source, destination), group in groups.items():
        if rank not in (source, destination):
            continue
        lane = group.lane()
        lane.enter_thread()
        with lane.work():
            byte = torch.zeros(1, dtype=torch.uint8, device=group.device)
            if rank == source:
                dist.send(byte, destination, group=group.payload)
            else:
                dist.recv(byte, source, group=group.payload)


def _close_all(ends: set[Channel]) -> None:
    """Close all senders, then all receivers, which wait for the goodbyes of their senders."""
    for end in sorted(ends, key=lambda end: isinstance(end, Receiver)):
        end.close()
