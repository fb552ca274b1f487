"""Channels between hosts that are encrypted: those of `tcp`, each connection inside TLS (--encrypt).

connect, prove the secret (workers.transport.handshake) ─► TLS, with the neighbour's certificate ─► messages
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial

from typing_extensions import override

from dni_async.errors import UserError
from workers.coordination.signing import JOB_SECRET
from workers.transport.base import Deadline, TransportError, TransportTimeout
from workers.transport.certificates import make_certificate
from workers.transport.links import Link, LinkRequest, Transport
from workers.transport.tcp import find, listen, open_connections
from workers.transport.tcp_receiver import TcpReceiver
from workers.transport.tcp_sender import TcpSender
from workers.transport.tcp_socket import cause
from workers.transport.tunnel import Tunnel

_PURPOSE = "tls"


class TlsTransport(Transport):
    """Links over TCP and TLS 1.3.

    Certificates are made for the job and handed out over the store, whose values must be signed.
    """

    encrypts = True

    @override
    def open(self, request: LinkRequest) -> dict[int, Link]:
        rendezvous, timeout, pin = request.rendezvous, request.timeout, request.device.type == "cuda"
        if not rendezvous.secret:
            raise UserError(
                f"encrypt needs a secret of the job; set {JOB_SECRET} to the same random text on all hosts"
            )
        if not request.neighbours:
            return {}
        own = make_certificate()
        rendezvous.publish(f"certificate/{rendezvous.rank}", own.text)
        links = {}
        for n, listener in listen(rendezvous, request.neighbours, _PURPOSE, timeout).items():
            theirs = rendezvous.read(f"certificate/{n}", timeout)
            address, secret = find(rendezvous, n, _PURPOSE, timeout)
            client, server = (
                partial(Tunnel, context=own.context(theirs, server=server), server=server, timeout=timeout)
                for server in (False, True)
            )
            outgoing = open_connections(address, secret, n, request.capacity, timeout)
            to = [client(one, name=f"tls to {n}") for one in outgoing]
            incoming, capacity = listener.accept_connections(timeout)
            of = [server(one, name=f"tls from {n}") for one in incoming]
            for tunnel in (*to, *of):
                request.stack.callback(tunnel.join, timeout)
            await_handshakes([*to, *of], n, timeout)
            sender = TcpSender(n, _inner(to), request.capacity, timeout, pin)
            links[n] = request.link(sender, TcpReceiver(n, _inner(of), capacity, pin))
        return links


def await_handshakes(tunnels: Sequence[Tunnel], peer: int, timeout: float) -> None:
    """Wait until the other end of every tunnel has shown its certificate.

    Raises:
        TransportTimeout: It did not do so in `timeout` seconds.
        TransportError: It has another certificate, or does not encrypt.
    """
    deadline = Deadline(timeout)
    try:
        for tunnel in tunnels:
            tunnel.await_handshake(deadline.left())
    except Exception as error:
        for tunnel in tunnels:
            tunnel.abort()
        if isinstance(error, (FutureTimeout, TimeoutError)):
            raise TransportTimeout(f"stage {peer} did not answer in TLS in {timeout:g} s") from None
        said = getattr(error, "reason", None) or (cause(error) if isinstance(error, OSError) else error)
        raise TransportError(f"the link to stage {peer} cannot be encrypted ({said})") from None


def _inner(tunnels: Sequence[Tunnel]) -> list[socket.socket]:
    return [tunnel.inner for tunnel in tunnels]
