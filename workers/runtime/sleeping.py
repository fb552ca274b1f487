"""How a stage sleeps until one of its neighbours has something for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dni_async.errors import Late
from workers.runtime.channels import StageChannels
from workers.transport.base import Channel, Deadline, PeerGone, wait_any

PEER_CHECK_INTERVAL_S = 0.5
"""How often a waiting stage checks whether its neighbours are gone."""


def sleep_until_news(
    channels: StageChannels,
    awaited: Callable[[], Sequence[Channel]],
    is_gone: Callable[[], object],
    deadline: Deadline,
    eager: bool,
) -> None:
    """Sleep until there may be a message to handle; first let all messages go.

    Args:
        awaited: the ends whose news would let the stage go on.
        is_gone: whether a neighbour that is needed has left.

    Raises:
        PeerGone: a neighbour has left.
        Late: nothing came until the deadline.
    """
    if _has_news_while_copying(channels, awaited, deadline):
        return
    for sender in channels.senders:
        sender.flush(deadline.left())
    while True:
        if not deadline.left():
            peers = sorted({end.peer for end in awaited()})
            names = " and ".join(f"stage {peer}" for peer in peers) or "anybody"
            raise Late(f"nothing came from {names} for {deadline.timeout:g} s", peers)
        if wait_any(awaited(), min(PEER_CHECK_INTERVAL_S, deadline.left()), eager):
            return
        if is_gone():
            raise PeerGone("a neighbour has left")


def _has_news_while_copying(
    channels: StageChannels, awaited: Callable[[], Sequence[Channel]], deadline: Deadline
) -> bool:
    """Send each message as soon as its copy from a GPU is done; True if one comes in before the last."""
    while channels.poke():
        if wait_any(awaited(), 0.0):
            return True
        if not deadline.left():
            return False
    return False
