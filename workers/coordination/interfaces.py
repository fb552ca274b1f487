"""The network interfaces that the user names for the ranks of a job."""

from __future__ import annotations

import os
import socket

import psutil

from dni_async.errors import UserError

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Environment variable for `tcp` and gloo; may list several, of which the first counts."""
_VARIABLES = (INTERFACE, "TP_SOCKET_IFNAME")


def check_interfaces() -> None:
    """Raises UserError if an interface that the environment names does not exist, or has no address.

    gloo and rpc would say so in terms of their source.
    """
    for variable in _VARIABLES:
        if interface := os.environ.get(variable, "").split(",")[0]:
            address_of(interface, variable)


def address_of(interface: str, variable: str = INTERFACE) -> str:
    """The IP address of an interface of this host. Raises UserError if it does not exist or has none."""
    known = psutil.net_if_addrs()
    if interface not in known:
        has = ", ".join(sorted(known))
        raise UserError(f"interface {interface} ({variable}) does not exist on this host, which has {has}")
    for family in (socket.AF_INET, socket.AF_INET6):
        for address in known[interface]:
            if address.family == family and "%" not in address.address:
                return address.address
    raise UserError(f"interface {interface} ({variable}) has no IP address; name another")
