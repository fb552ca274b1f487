"""Errors of a baseline as the user reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dni_async.errors import Late, StageError, UserError
from workers.coordination.collectives import Peers
from workers.transport.base import timed_out


@contextmanager
def explained(describe_position: Callable[[], str], peers: Peers) -> Iterator[None]:
    """Turn errors of the block into StageError or UserError that name rank and step."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{describe_position()}: {error}") from error
    except Exception as error:
        if isinstance(error, RuntimeError) and (gone := peers.gone()):
            names = " and ".join(f"rank {rank}" for rank in gone)
            raise StageError(f"{names} is gone; {describe_position()} noticed") from error
        says_it_all = isinstance(error, RuntimeError | ValueError | TypeError)
        cause = error if says_it_all else f"{type(error).__name__}: {error}"
        kind = Late if timed_out(error) else StageError
        raise kind(f"{describe_position()}: {cause}") from error
