"""Links over torch.distributed.rpc."""

from __future__ import annotations

from typing_extensions import override

from workers.transport.links import Link, LinkRequest, Transport
from workers.transport.rpc import RpcReceiver, RpcSender, start_rpc, stop_rpc


class RpcTransport(Transport):
    """torch.distributed.rpc (`workers.transport.rpc`), which runs what any peer on its port asks for."""

    needs_trusted_network = True

    @override
    def open(self, request: LinkRequest) -> dict[int, Link]:
        rank = request.rendezvous.rank
        start_rpc(rank, request.rendezvous.world, request.timeout, attempt=request.rendezvous.restart)
        request.stack.callback(stop_rpc, request.timeout)
        return {
            n: request.link(RpcSender(rank, n, request.capacity), RpcReceiver(rank, n))
            for n in request.neighbours
        }
