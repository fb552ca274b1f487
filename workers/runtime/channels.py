"""The four channels of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.transport.base import Channel, Receiver, Sender


@dataclass(slots=True)
class StageChannels:
    """The inputs and outputs of a stage; the last stage has no `activations_out` and `targets_in`."""

    activations_in: Receiver
    targets_out: Sender
    activations_out: Sender | None = None
    targets_in: Receiver | None = None

    @property
    def senders(self) -> list[Sender]:
        """The channels that this stage sends into: targets, and activations unless it is the last stage."""
        return [self.targets_out, *([self.activations_out] if self.activations_out else [])]

    @property
    def downstream(self) -> list[Channel]:
        """The two channels between this stage and the next one; none for the last stage."""
        return [end for end in (self.activations_out, self.targets_in) if end is not None]

    @property
    def ends(self) -> list[Channel]:
        """All channels of this stage."""
        return [self.activations_in, self.targets_out, *self.downstream]

    def gone(self, others: Sequence[Channel] = ()) -> list[int]:
        """Return the neighbouring stages that have left, leaving out the channels in `others`."""
        return [end.peer for end in self.ends if end not in others and end.peer_gone()]

    def poke(self) -> bool:
        """Send what waited for its copy from a GPU, as far as that is done; return whether more waits."""
        return any([sender.poke() for sender in self.senders])

    def held_bytes(self) -> int:
        """Return the bytes that the senders hold for messages that were not released."""
        return sum(sender.held_bytes() for sender in self.senders)
