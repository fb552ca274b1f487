"""Which address of this host the other hosts of the job can reach."""

from __future__ import annotations

import ipaddress
import os
import socket

from dni_async.errors import UserError
from workers.coordination.interfaces import INTERFACE, address_of

_MASTER = "MASTER_ADDR"


def listening_host() -> str:
    """The address to listen on, for the stages of a job.

    It is that of the interface named by GLOO_SOCKET_IFNAME, which torch.distributed reads too; else of the
    interface by which MASTER_ADDR is reached. Without either it is the loopback address. Empty, for all
    interfaces, where MASTER_ADDR leads to this host's loopback address: then other hosts have to use the
    MASTER_ADDR that they know.

    Raises UserError when the interface does not exist, or MASTER_ADDR does not resolve.
    """
    if interface := os.environ.get(INTERFACE, "").split(",")[0]:
        return address_of(interface)
    if _MASTER not in os.environ:
        return "127.0.0.1"
    address = _address_towards(os.environ[_MASTER])
    return "" if ipaddress.ip_address(address).is_loopback else address


def connecting_host(published: str) -> str:
    """The address to connect to, for what `listening_host` returned on another rank."""
    return published or os.environ[_MASTER]


def _address_towards(host: str) -> str:
    """The address of this host in packets to `host`; nothing is sent."""
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        cause = error.strerror or error
        raise UserError(f"{_MASTER} is {host}, which cannot be reached ({cause}); correct it") from None
