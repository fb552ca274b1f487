"""Channels between hosts that are encrypted: those of `tcp`, each connection inside TLS (--encrypt).

connect, prove the secret (workers.transport.handshake) ─► TLS, with the neighbour's certificate ─► messages
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeout

from typing_extensions import override

from dni_async.errors import UserError
from workers.coordination.signing import JOB_SECRET
from workers.transport.base import TransportError, TransportTimeout
from workers.transport.certificates import make_certificate
from workers.transport.links import Link, LinkRequest, Transport
from workers.transport.tcp import find, listen, open_connections
from workers.transport.tcp_receiver import TcpReceiver
from workers.transport.tcp_sender import TcpSender
from workers.transport.tcp_socket import cause
from workers.transport.tunnel import HANDSHAKE_TIMEOUT_S, Tunnel

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
            client, server = (own.context(theirs, server=server) for server in (False, True))
            outgoing = open_connections(address, secret, n, request.capacity, timeout)
            to = [Tunnel(one, client, server=False, name=f"tls to {n}") for one in outgoing]
            incoming, capacity = listener.accept_connections(timeout)
            of = [Tunnel(one, server, server=True, name=f"tls from {n}") for one in incoming]
            for tunnel in (*to, *of):
                request.stack.callback(tunnel.join, timeout)
            await_handshakes([*to, *of], n)
            sender = TcpSender(n, _inner(to), request.capacity, timeout, pin)
            links[n] = request.link(sender, TcpReceiver(n, _inner(of), capacity, pin))
        return links


def await_handshakes(tunnels: Sequence[Tunnel], peer: int) -> None:
    """Wait until the other end of every tunnel has shown its certificate.

    Raises TransportError when it has another one, or does not encrypt.
    """
    for tunnel in tunnels:
        try:
            tunnel.await_handshake(HANDSHAKE_TIMEOUT_S)
        except (FutureTimeout, TimeoutError):
            raise TransportTimeout(
                f"stage {peer} did not answer in TLS in {HANDSHAKE_TIMEOUT_S:g} s"
            ) from None
        except OSError as error:
            for each in tunnels:
                with contextlib.suppress(OSError):
                    each.inner.close()
            said = getattr(error, "reason", None) or cause(error)
            raise TransportError(f"the link to stage {peer} cannot be encrypted ({said})") from None


def _inner(tunnels: Sequence[Tunnel]) -> list[socket.socket]:
    return [tunnel.inner for tunnel in tunnels]
