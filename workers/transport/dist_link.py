"""Links over torch.distributed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from typing_extensions import override

from workers.coordination.collectives import start_group
from workers.coordination.interruptible import OVERTIME_S, interruptible
from workers.transport.dist import DistReceiver, DistSender, make_groups
from workers.transport.links import Link, LinkRequest, Transport


class DistTransport(Transport):
    """torch.distributed point-to-point (`workers.transport.dist`). All ranks make the groups of all links."""

    @override
    def open(self, request: LinkRequest) -> dict[int, Link]:
        rank = request.rendezvous.rank
        start_group(request.rendezvous, request.timeout, torch.device("cpu"))
        request.stack.callback(dist.destroy_process_group)
        groups = interruptible(
            lambda: make_groups(request.pairs, request.timeout, request.device),
            request.timeout + OVERTIME_S,
            f"rank {rank} could not make the process groups of the links",
        )
        return {
            n: request.link(
                DistSender(n, groups[rank, n]), DistReceiver(n, groups[n, rank], request.capacity)
            )
            for n in request.neighbours
        }
