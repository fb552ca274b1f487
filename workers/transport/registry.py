"""The transports by name. One of your own is named by its dotted path, `my_pkg.my_module:MyTransport`."""

from __future__ import annotations

from collections.abc import Sequence

from dni_async.errors import UserError
from dni_async.plugins import find_class
from workers.transport.links import Transport

TRANSPORTS = {
    "shm": "workers.transport.shm_link:ShmTransport",
    "tcp": "workers.transport.tcp:TcpTransport",
    "tls": "workers.transport.tls:TlsTransport",
    "dist": "workers.transport.dist_link:DistTransport",
    "nccl": "workers.transport.dist_link:NcclTransport",
    "rpc": "workers.transport.rpc:RpcTransport",
}
AUTO, ENCRYPTED_AUTO = ("shm", "tcp"), ("shm", "tls")
"""What `auto` chooses from, without and with --encrypt: for each link the first that fits its hosts."""


def find_transport(name: str) -> Transport:
    """The transport of this name or dotted path. Raises UserError if there is none."""
    advice = f"; use one of {', '.join(['auto', *TRANSPORTS])}, or the dotted path of your own"
    return find_class(name, TRANSPORTS, "transport", Transport, advice=advice)()  # type: ignore[type-abstract]


def check_transports(asked: str, *, trust_network: bool, supervise: bool = False) -> None:
    """Check the value of --transport before anything starts. Raises UserError."""
    for name in asked.split(","):
        if name == "auto":
            continue
        transport = find_transport(name)
        if transport.needs_trusted_network and not trust_network:
            raise UserError(
                f"transport is {name}, by which anybody who reaches its port, such as another user of this "
                "host, can run code in the ranks; add --trust-network if nobody else can, or use auto"
            )
        if supervise and not transport.restartable:
            raise UserError(f"transport is {name}; supervise needs shm or tcp on every link")


def check_encryption(asked: str) -> None:
    """Check the value of --transport where --encrypt is set. Raises UserError."""
    for name in asked.split(","):
        transport = None if name == "auto" else find_transport(name)
        if transport and not (transport.encrypts or transport.same_host_only):
            raise UserError(
                f"transport is {name}, which does not encrypt; use auto or tls, or leave out --encrypt"
            )


def choose_transports(asked: str, hosts: Sequence[str], encrypt: bool = False) -> list[str]:
    """The transport of each link between neighbours.

    Args:
        asked: one name for all links, or one for each with commas between; auto chooses from AUTO.
        hosts: where each rank runs.
        encrypt: auto chooses from ENCRYPTED_AUTO.

    Raises:
        UserError: the number of names is wrong, or a transport cannot connect two of these hosts.
    """
    links = len(hosts) - 1
    names = asked.split(",")
    if len(names) == 1:
        names *= links
    if len(names) != links:
        raise UserError(f"transport {asked} names {len(names)} links, but {links + 1} stages have {links}")
    auto, chosen = ENCRYPTED_AUTO if encrypt else AUTO, []
    for i, name in enumerate(names):
        same_host = hosts[i] == hosts[i + 1]
        fitting = [each for each in auto if same_host or not find_transport(each).same_host_only]
        name = fitting[0] if name == "auto" else name
        if find_transport(name).same_host_only and not same_host:
            raise UserError(f"transport {name} needs stages {i} and {i + 1} on one host; use auto or tcp")
        chosen.append(name)
    return chosen
