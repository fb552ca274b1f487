"""Joins a stage to its neighbours over TCP: publish where to connect, and the secret that opens the door."""

from __future__ import annotations

import hashlib
import hmac

from typing_extensions import override

from workers.coordination.rendezvous import Rendezvous
from workers.transport.addresses import connecting_host, listening_host
from workers.transport.handshake import new_secret
from workers.transport.links import Link, LinkRequest, Transport
from workers.transport.tcp import connect
from workers.transport.tcp_listener import TcpListener


class TcpTransport(Transport):
    """Streams over TCP (`workers.transport.tcp`).

    A channel's secret is derived from the job's, which every rank has in its environment. A job without one
    (torchrun's) gets a random secret for each channel, published in the store beside the address: whoever
    can read the store can then join a channel.
    """

    @override
    def open(self, request: LinkRequest) -> dict[int, Link]:
        rendezvous, timeout, pin = request.rendezvous, request.timeout, request.device.type == "cuda"
        rank, host = rendezvous.rank, listening_host() if request.neighbours else ""
        listeners = {}
        for n in request.neighbours:
            secret = b"" if rendezvous.secret else new_secret()
            listeners[n] = TcpListener(n, host, secret or _derive(rendezvous, n, rank), timeout, pin)
            rendezvous.publish(f"tcp/{n}-{rank}", [*listeners[n].address, secret.hex()])
        links = {}
        for n, listener in listeners.items():
            where, port, published = rendezvous.read(f"tcp/{rank}-{n}", timeout)
            secret = bytes.fromhex(published) or _derive(rendezvous, rank, n)
            sender = connect((connecting_host(where), port), secret, n, request.capacity, timeout, pin=pin)
            links[n] = request.link(sender, listener.accept(timeout))
        return links


def _derive(rendezvous: Rendezvous, source: int, destination: int) -> bytes:
    """The secret of one channel, in this attempt of the job."""
    channel = f"tcp/{source}-{destination}/{rendezvous.restart}"
    return hmac.digest(rendezvous.secret, channel.encode(), hashlib.sha256)
