"""How the labels of a batch reach the stages whose rule needs them.

given on     way                                            cost
the first    downstream, with the activation                their bytes on every link
a stage      none: it uses its own                          none
the last     from there to each stage that has none         stage i waits, after it has sent its activation,
                                                            until the last rank has begun the same step
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from dni_async.errors import StageError, UserError
from dni_async.messages import Activation, Message
from dni_async.stage.stage import Stage
from workers.coordination.rendezvous import Rendezvous
from workers.failure.errors import at_position
from workers.transport.base import Receiver, Sender, TransportError
from workers.transport.links import Link, LinkRequest
from workers.transport.registry import choose_transports, find_transport

NO_LABELS = torch.empty(0)
"""Of a batch whose labels do not travel with it."""


class Labels:
    """The labels of one stage's batches.

    Attributes:
        own: (B, ...) what the current call of this rank was given.

    Args:
        receiver: from the last stage, if the labels come from there.
        senders: to the stages that get them from here, on the last stage.
    """

    def __init__(
        self,
        index: int,
        timeout: float,
        device: torch.device,
        receiver: Receiver | None = None,
        senders: Sequence[Sender] = (),
    ) -> None:
        self.own: Tensor | None = None
        self._index, self._timeout, self._device = index, timeout, device
        self._receiver, self._senders = receiver, senders

    def send(self, step: int) -> None:
        """Send the labels of a training batch to the stages that get them from here."""
        if not self._senders:
            return
        position = f"stage {self._index} (rank {self._index}), at step {step}"
        if self.own is None:
            raise UserError(f"{position}: no target was given, unlike in the first step")
        try:
            for sender in self._senders:
                sender.send(Activation(step, 0, self.own.detach(), NO_LABELS), self._timeout)
        except TransportError as error:
            raise at_position(error, position) from error

    def of(self, message: Activation) -> Tensor:
        """Return the labels (B, ...) of a batch, waiting for them where they come from the last stage."""
        if self.own is not None:
            return self.own
        if self._receiver is None or not message.train:
            return message.y
        labels = self._receiver.recv(self._timeout)
        assert isinstance(labels, Activation)
        if labels.step != message.step:
            raise StageError(f"labels of step {labels.step} came; the last rank made other calls")
        y = labels.h.to(self._device, copy=True)
        self._receiver.release()
        return y


class LabelledStage(Stage):
    """A stage that gets labels from elsewhere than its messages, after it has sent its activation."""

    labels: Labels
    needs_labels = True
    """Whether its rule does."""

    @override
    def train(self, message: Activation) -> Iterator[Message]:
        if self.is_last:
            self._take_labels(message)
        for out in super().train(message):
            yield out
            if isinstance(out, Activation):
                self._take_labels(message)

    @override
    def evaluate(self, message: Activation) -> Iterator[Message]:
        if self.is_last:
            message.y = self.labels.of(message)
        return super().evaluate(message)

    def _take_labels(self, message: Activation) -> None:
        message.y = self.labels.of(message)
        if self.needs_labels and len(message.h) and not len(message.y):
            raise UserError("no labels came with this batch; give target=y in every step, as in the first")


def open_labels(
    rendezvous: Rendezvous,
    hosts: Sequence[str],
    has_target: Sequence[bool],
    needed: bool,
    capacity: int,
    timeout: float,
    device: torch.device,
    stack: ExitStack,
) -> Labels:
    """Return the labels of this stage, linked to the last stage where only that has them.

    Args:
        has_target: which ranks are given labels.
        needed: whether the rule of stages before the last needs labels.
        stack: closes the links.
    """
    rank, last = rendezvous.rank, rendezvous.world - 1
    without = [i for i in range(last) if needed and not (has_target[i] or has_target[0])]
    if without and capacity < 2:
        raise UserError("in_flight is 1 and labels come from the last rank; give them on the first, or use 2")
    if rank != last and rank not in without:
        return Labels(rank, timeout, device)
    own = replace(rendezvous, store=dist.PrefixStore("labels", rendezvous.store))
    links: dict[int, Link] = {}
    for i in [i for i in without if rank in (i, last)]:
        (name,) = choose_transports("auto", [hosts[i], hosts[last]])
        links |= find_transport(name).open(LinkRequest(own, [(i, last)], capacity, timeout, device, stack))
    if rank == last:
        return Labels(rank, timeout, device, senders=[link.sender for link in links.values()])
    return Labels(rank, timeout, device, links[last].receiver)
