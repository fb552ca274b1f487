"""Encrypted channels over the loopback interface."""

from __future__ import annotations

from functools import cache

from tests.support.conformance import TEST_TIMEOUT_S
from tests.support.tcp_channels import SECRET, listen
from workers.transport.certificates import Certificate, make_certificate
from workers.transport.tcp import Address, open_connections
from workers.transport.tcp_listener import TcpListener
from workers.transport.tcp_receiver import TcpReceiver
from workers.transport.tcp_sender import TcpSender
from workers.transport.tls import await_handshakes
from workers.transport.tunnel import Tunnel


@cache
def certificate(rank: int) -> Certificate:
    """The certificate of a rank, made once."""
    return make_certificate()


def client_tunnels(
    address: Address,
    peer: int,
    capacity: int,
    own: Certificate,
    theirs: str,
    stripes: int = 1,
    timeout: float = TEST_TIMEOUT_S,
) -> list[Tunnel]:
    context = own.context(theirs, server=False)
    ends = open_connections(address, SECRET, peer, capacity, TEST_TIMEOUT_S, stripes)
    return [Tunnel(end, context, server=False, name=f"tls to {peer}", timeout=timeout) for end in ends]


def server_tunnels(
    listener: TcpListener, own: Certificate, theirs: str, timeout: float = TEST_TIMEOUT_S
) -> list[Tunnel]:
    context = own.context(theirs, server=True)
    ends, _ = listener.accept_connections(TEST_TIMEOUT_S)
    return [
        Tunnel(end, context, server=True, name=f"tls from {listener.peer}", timeout=timeout) for end in ends
    ]


def tls_ends(
    listener: TcpListener, address: Address, peer: int, capacity: int, own: Certificate, theirs: str
) -> tuple[TcpSender, TcpReceiver]:
    """What one rank has of its link: it sends to `address` and receives at the listener."""
    to = client_tunnels(address, peer, capacity, own, theirs)
    of = server_tunnels(listener, own, theirs)
    await_handshakes([*to, *of], peer, TEST_TIMEOUT_S)
    sender = TcpSender(peer, [tunnel.inner for tunnel in to], capacity, TEST_TIMEOUT_S, pin=False)
    return sender, TcpReceiver(peer, [tunnel.inner for tunnel in of], capacity, pin=False)


def tls_channel(
    capacity: int, sender_stage: int = 0, receiver_stage: int = 1, stripes: int = 1
) -> tuple[TcpSender, TcpReceiver]:
    """Both ends of a channel."""
    own, other = certificate(sender_stage), certificate(receiver_stage)
    listener = listen(sender_stage)
    to = client_tunnels(listener.address, receiver_stage, capacity, own, other.text, stripes)
    of = server_tunnels(listener, other, own.text)
    await_handshakes([*to, *of], receiver_stage, TEST_TIMEOUT_S)
    sender = TcpSender(receiver_stage, [t.inner for t in to], capacity, TEST_TIMEOUT_S, pin=False)
    return sender, TcpReceiver(sender_stage, [t.inner for t in of], capacity, pin=False)
