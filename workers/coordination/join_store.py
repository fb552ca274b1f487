"""Joins the rendezvous store of a job, by the variables that torchrun sets for its ranks.

under torchrun    all ranks   wait until something listens there ─ connect
by hand           rank 0      listens ─ waits for all other ranks
                  rank i      waits until something listens there ─ connects
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from dni_async.errors import StageError, UserError, cause_of
from workers.coordination.interruptible import OVERTIME_S, interruptible
from workers.coordination.loopback import check_loopback
from workers.coordination.store_connection import await_listener, is_listening

_RESOLVE_INTERVAL_S = 0.1
_RESOLVE_TIMEOUT_S = 5.0
"""How long a host name may be unknown, as names of hosts that have just started are."""
_ANSWER_TIMEOUT_S = 15.0
"""For what listens to answer as a store; until then torch tries again."""


def join_store(timeout: float) -> tuple[dist.Store, int, int]:
    """The store, this process's rank and the number of ranks.

    Raises:
        UserError: a variable is missing or no number, the address cannot be reached, the port is in use, or
            what listens there is no store.
        StageError: the others did not come within `timeout` seconds.
    """
    env = os.environ
    if missing := [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in env]:
        raise UserError(f"RANK is set and {missing[0]} is not; start the ranks by torchrun, or unset RANK")
    rank, world = whole_number("RANK"), whole_number("WORLD_SIZE", 1)
    if rank >= world:
        raise UserError(f"RANK is {rank} and WORLD_SIZE is {world}; ranks count from 0")
    host, port = env["MASTER_ADDR"], whole_number("MASTER_PORT", 1, 65535)
    if ipaddress.ip_address(_resolve(host, port, timeout)).is_loopback:
        check_loopback()
    failed = f"rank {rank} could not meet the others at {host}:{port}"
    serves = env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and rank == 0
    try:
        if not serves:
            await_listener(host, port, timeout)
        limit = timeout if serves else min(timeout, _ANSWER_TIMEOUT_S)
        meeting = dist.rendezvous("env://", timeout=timedelta(seconds=limit))
        with _silent():
            return interruptible(lambda: next(meeting), limit + OVERTIME_S, failed)
    except StageError:
        raise
    except (RuntimeError, ValueError) as error:  # torch 2.8 has no class of its own for a wrong answer
        cause = cause_of(error)
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise UserError(f"the rendezvous port is in use ({host}:{port}); choose another") from error
        if not serves and is_listening(0.0):
            raise UserError(
                f"what listens at {host}:{port} is no rendezvous store ({cause}); correct MASTER_ADDR and "
                "MASTER_PORT"
            ) from error
        raise StageError(f"{failed} ({cause})") from error
    except OSError as error:
        raise StageError(f"{failed} in {timeout:g} s ({error.strerror or error})") from error


def whole_number(variable: str, least: int = 0, most: int | None = None, default: int = 0) -> int:
    """The number in an environment variable. Raises UserError if it is none, or out of range."""
    text = os.environ.get(variable, str(default))
    if text.isascii() and text.isdecimal() and least <= int(text) <= (int(text) if most is None else most):
        return int(text)
    allowed = f"a whole number from {least}" if most is None else f"{least} to {most}"
    raise UserError(f"{variable} is {text}; it must be {allowed}")


def _resolve(host: str, port: int, timeout: float) -> str:
    """The address of the host. Raises UserError when it stays unknown."""
    deadline = time.monotonic() + min(timeout, _RESOLVE_TIMEOUT_S)
    while True:
        try:
            return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            if time.monotonic() > deadline:
                cause = error.strerror or error
                raise UserError(
                    f"MASTER_ADDR is {host}, which is no known host ({cause}); correct it"
                ) from None
        time.sleep(_RESOLVE_INTERVAL_S)


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what is printed on stderr: torch's C++ prints a stack of frames where an exception says it all."""
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)
