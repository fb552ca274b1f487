"""Both ends of a channel within one process, over every transport that can do so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from workers.transport.base import Receiver, Sender
from workers.transport.cuda_copies import copy_out
from workers.transport.memory import memory_channel
from workers.transport.shm import ShmListener, connect

TEST_TIMEOUT_S = 40.0
"""Seconds after which something that should happen did not."""


MakeChannel = Callable[[int, int, int], tuple[Sender, Receiver]]
"""(capacity, sender's stage, receiver's stage) -> both ends."""


def shm_channel(capacity: int, sender_stage: int = 0, receiver_stage: int = 1) -> tuple[Sender, Receiver]:
    """As `memory_channel`, through shared memory and a socket."""
    listener = ShmListener(sender_stage)
    sender = connect(listener.address, receiver_stage, capacity, TEST_TIMEOUT_S)
    return sender, listener.accept(TEST_TIMEOUT_S)


class Copying:
    """A GPU's copy into a slot as the host sees it: under way until `finished`, or asked for very often."""

    def __init__(self, patience: int = 10) -> None:
        self.finished = False
        self._patience = patience

    def query(self) -> bool:
        """Whether it is done."""
        self._patience -= 1
        return self.finished or self._patience < 0


def late_channel(capacity: int, sender_stage: int = 0, receiver_stage: int = 1) -> tuple[Sender, Receiver]:
    """As `shm_channel`, with copies that end late."""
    sender, receiver = shm_channel(capacity, sender_stage, receiver_stage)
    sender.copy_out = copy_late  # type: ignore[attr-defined]
    return sender, receiver


def copy_late(places: Sequence[Tensor], tensors: Sequence[Tensor]) -> Copying:
    """In place of `copy_out`."""
    copy_out(places, tensors)
    return Copying()


CHANNELS: dict[str, MakeChannel] = {"memory": memory_channel, "shm": shm_channel}


GPU_LIKE = CHANNELS | {"late": late_channel}
"""A message may leave such a channel only when the sender looks again or sleeps."""
