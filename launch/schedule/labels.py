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
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from dni_async.boundary import Boundary, Extras
from dni_async.errors import StageError, UserError
from dni_async.messages import Activation, Message
from dni_async.stage.stage import Stage
from launch.schedule.interfaces import Interfaces
from tasks.base import Task
from workers.coordination.rendezvous import Rendezvous
from workers.failure.errors import at_position
from workers.transport.base import Receiver, Sender, TransportError
from workers.transport.links import Link, LinkRequest
from workers.transport.registry import choose_transports, find_transport

NO_LABELS = torch.empty(0)
"""Of a batch whose labels do not travel with it."""

Packed = tuple[Tensor, Extras]
"""The labels of a batch, packed into y (B, ...) and extras."""


class Labels:
    """The labels of one stage's batches.

    Attributes:
        own: y (B, ...) and extras of what the current call of this rank was given.

    Args:
        targets: how labels are packed.
        receiver: from the last stage, if the labels come from there.
        senders: to the stages that get them from here, on the last stage.
    """

    def __init__(
        self,
        index: int,
        timeout: float,
        device: torch.device,
        targets: Boundary,
        receiver: Receiver | None = None,
        senders: Sequence[Sender] = (),
    ) -> None:
        self.own: Packed | None = None
        self._index, self._timeout, self._device = index, timeout, device
        self._targets, self._receiver, self._senders = targets, receiver, senders

    def set(self, target: Any) -> None:
        """Take the labels, a tree, that the current call of this rank was given; None for none."""
        self.own = None if target is None else self._targets.pack(target)

    def packed(self) -> Packed:
        """Return what the first stage sends with its batch; tensors without content if it has no labels."""
        return self.own or (NO_LABELS, (NO_LABELS,) * self._targets.extras)

    def send(self, step: int) -> None:
        """Send the labels of a training batch to the stages that get them from here."""
        if not self._senders:
            return
        position = f"stage {self._index} (rank {self._index}), at step {step}"
        if self.own is None:
            raise UserError(f"{position}: no target was given, unlike in the first step")
        y, extras = self.own
        try:
            for sender in self._senders:
                sender.send(Activation(step, 0, y.detach(), NO_LABELS, True, extras), self._timeout)
        except TransportError as error:
            raise at_position(error, position) from error

    def of(self, message: Activation) -> Packed | None:
        """Return the labels of a batch, waiting for them where they come from the last stage; None for those
        of the message."""
        if self.own is not None or self._receiver is None or not message.train:
            return self.own
        labels = self._receiver.recv(self._timeout)
        assert isinstance(labels, Activation)
        if labels.step != message.step:
            raise StageError(f"labels of step {labels.step} came; the last rank made other calls")
        y, *extras = (tensor.to(self._device, copy=True) for tensor in (labels.h, *labels.extras))
        self._receiver.release()
        return y, tuple(extras)


class LabelledStage(Stage):
    """A stage that gets labels from elsewhere than its messages, after it has sent its activation."""

    labels: Labels
    needs_labels = True
    """Whether its rule does."""
    classes: int | None = None
    """Of integer labels, if known."""
    ignore_index: int | None = None

    @override
    def train(self, message: Activation) -> Iterator[Message]:
        if self.is_last:
            self._take_labels(message)
        try:
            for out in super().train(message):
                yield out
                if isinstance(out, Activation):
                    self._take_labels(message)
        except (IndexError, RuntimeError) as error:  # as torch raises for a class that is none
            self._check_classes(message.y, error)
            raise

    @override
    def evaluate(self, message: Activation) -> Iterator[Message]:
        if self.is_last:
            self._place_labels(message)
        try:
            yield from super().evaluate(message)
        except (IndexError, RuntimeError) as error:
            self._check_classes(message.y, error)
            raise

    def _check_classes(self, y: Tensor, error: Exception) -> None:
        """Raise UserError because of the error if a label of y (B, ...) is outside the classes."""
        if self.classes is None or y.is_floating_point() or y.is_cuda:  # after an error a GPU returns nothing
            return
        ignored = Task.ignore_index if self.ignore_index is None else self.ignore_index
        wrong = y[((y < 0) | (y >= self.classes)) & (y != ignored)]
        if len(wrong):
            raise UserError(
                f"label {wrong[0].item()} is outside the classes 0 to {self.classes - 1}; change the data, "
                "or give ignore_index=... if it marks padding"
            ) from error

    def _place_labels(self, message: Activation) -> None:
        if labels := self.labels.of(message):
            extras, _ = self._split_extras(message)
            message.y, message.extras = labels[0], extras + labels[1]

    def _take_labels(self, message: Activation) -> None:
        self._place_labels(message)
        if self.needs_labels and len(message.h) and not len(message.y):
            raise UserError("no labels came with this batch; give target=y in every step, as in the first")


def open_labels(
    rendezvous: Rendezvous,
    hosts: Sequence[str],
    interfaces: Interfaces,
    needed: bool,
    capacity: int,
    timeout: float,
    device: torch.device,
    stack: ExitStack,
) -> Labels:
    """Return the labels of this stage, linked to the last stage where only that has them.

    Args:
        needed: whether the rule of stages before the last needs labels.
        stack: closes the links.
    """
    rank, last = rendezvous.rank, rendezvous.world - 1
    has_target, targets = interfaces.has_target, interfaces.targets
    without = [i for i in range(last) if needed and not (has_target[i] or has_target[0])]
    if without and capacity < 2:
        raise UserError("in_flight is 1 and labels come from the last rank; give them on the first, or use 2")
    if rank != last and rank not in without:
        return Labels(rank, timeout, device, targets)
    own = replace(rendezvous, store=dist.PrefixStore("labels", rendezvous.store))
    links: dict[int, Link] = {}
    for i in [i for i in without if rank in (i, last)]:
        (name,) = choose_transports("auto", [hosts[i], hosts[last]])
        links |= find_transport(name).open(LinkRequest(own, [(i, last)], capacity, timeout, device, stack))
    if rank == last:
        return Labels(rank, timeout, device, targets, senders=[link.sender for link in links.values()])
    return Labels(rank, timeout, device, targets, links[last].receiver)
