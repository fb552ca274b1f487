"""Links over torch.distributed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from typing_extensions import override

from dni_async.errors import UserError
from workers.coordination.collectives import shared_gpus, start_group
from workers.coordination.interruptible import OVERTIME_S, interruptible
from workers.runtime.cuda import accelerator_of
from workers.transport.dist import DistReceiver, DistSender
from workers.transport.dist_groups import make_groups
from workers.transport.links import Link, LinkRequest, Transport


class DistTransport(Transport):
    """torch.distributed point-to-point (`workers.transport.dist`). All ranks make the groups of all links.

    Tensors go by gloo, those on a GPU through host memory.
    """

    nccl = False
    """Whether tensors go from GPU to GPU by NCCL."""

    @override
    def open(self, request: LinkRequest) -> dict[int, Link]:
        rank = request.rendezvous.rank
        start_group(request.rendezvous, request.timeout, torch.device("cpu"))
        request.stack.callback(dist.destroy_process_group)
        accelerator = accelerator_of(request.device)
        groups = interruptible(
            lambda: make_groups(request.pairs, request.timeout, accelerator, self.nccl),
            request.timeout + OVERTIME_S,
            f"rank {rank} could not make the process groups of the links",
        )
        return {
            n: request.link(
                DistSender(n, groups[rank, n]), DistReceiver(n, groups[n, rank], request.capacity)
            )
            for n in request.neighbours
        }


class NcclTransport(DistTransport):
    """The same between GPUs: tensors never touch host memory. It has not run on hardware yet."""

    nccl = True

    @override
    def open(self, request: LinkRequest) -> dict[int, Link]:
        if request.device.type != "cuda":
            raise UserError("transport nccl is for GPUs; add --device cuda, or use auto")
        if not dist.is_nccl_available():
            raise UserError("this torch has no NCCL; use --transport auto")
        if shared_gpus(request.rendezvous, request.device, request.timeout):
            raise UserError("transport nccl needs a GPU for each stage; use auto, or fewer stages")
        return super().open(request)
