"""The loopback interface, by which the processes of one host meet."""

from __future__ import annotations

import socket

import torch.distributed as dist

from dni_async.errors import UserError

LOOPBACK = "127.0.0.1"
_TIMEOUT_S = 5.0


def check_loopback() -> None:
    """Raises UserError if processes of this host cannot connect by the loopback interface.

    torch would try for minutes, without hearing a signal.
    """
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(
            f"the loopback interface does not work ({error.strerror or error}); "
            "bring it up, as by `ip link set lo up`"
        ) from None


def local_store(host: str = LOOPBACK, port: int = 0) -> dist.TCPStore:
    """A store at one address of this host, at `port` or a free one; torch's own listen on all interfaces."""
    listening = socket.create_server((host, port))
    return dist.TCPStore(
        host,
        listening.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )
