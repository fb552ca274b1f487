"""Where batches come from: the stream of messages that stage 0 works through.

epoch 1: train ... train | test ... test | EVALUATION | train ... train | test ... test | EPOCH | CHECKPOINT
epoch 2: ...                                                                                          STOP
         every second or so a REPORT marker in between
         every so many steps a CHECKPOINT marker, too

With a validation set (--patience) evaluations are on that, and the test set comes once, for the best weights:

epoch 1: train ... train | validation ... validation | EPOCH | CHECKPOINT
epoch n: ...                                                 | CHECKPOINT | RESTORE | test ... test | STOP
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import torch

from dni_async.boundary import TENSOR, Boundary
from dni_async.messages import Activation, Marker, MarkerKind, Message
from launch.job.data import Batch, Data

Pack = Callable[[Batch, int, bool], Activation]
"""(batch, its number, whether it is for training) -> the message of the batch."""


@dataclass(slots=True)
class StreamPosition:
    """How much of the stream has been sent: what a stream that goes on elsewhere starts from."""

    step: int = 0
    """Training batches."""
    sent_after: int | None = None
    """Messages behind the last training batch, without REPORT markers, which depend on the clock; None: all
    that belong there."""
    checkpoint_step: int | None = None
    """Step of the last CHECKPOINT marker; None: `step`."""

    def state_dict(self) -> dict[str, int | None]:
        """Return the arguments of an equal position, JSON-able."""
        return asdict(self)

    def advance(self, message: Message) -> Message:
        """Count a message that is about to be sent, and return it."""
        if isinstance(message, Activation) and message.train:
            self.step, self.sent_after = message.step + 1, 0
        elif not (isinstance(message, Marker) and message.kind is MarkerKind.REPORT):
            self.sent_after = (self.sent_after or 0) + 1
        if isinstance(message, Marker) and message.kind is MarkerKind.CHECKPOINT:
            self.checkpoint_step = message.step
        return message


def stream(
    data: Data,
    epochs: int,
    device: torch.device,
    clock: Callable[[], float],
    *,
    evaluations: int = 1,
    checkpoint_every: int | None = None,
    position: StreamPosition | None = None,
    inputs: Boundary = TENSOR,
    targets: Boundary = TENSOR,
    on_step: Callable[[int], None] = lambda step: None,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[Message]:
    """Yield all messages of a run, in order, from `position` on. A REPORT marker goes in when a second has
    passed since the last.

    Args:
        evaluations: per epoch, on the whole test or validation set.
        checkpoint_every: a CHECKPOINT marker comes whenever so many steps are done and at the end of every
            epoch, behind an evaluation that is due there; 0: of epochs only, None: no markers.
        position: where to start; it moves along with the stream.
        inputs, targets: how those of a batch are packed.
        on_step: called when a training batch has been handled, with the number of those done.
        enough: asked before each message; once it is true, STOP is the next message, wherever the epoch
            stands:

                enough    no      no   no           yes  (an earlier evaluation's marker has come back)
                message   train   ...  train  REPORT  STOP

            With checkpoints there is one more in front of it, so that the last one is always the end of the
            run. With a validation set RESTORE and the test set stand in front of STOP.
    """
    position = position or StreamPosition()
    if position.checkpoint_step is None:
        position.checkpoint_step = position.step
    pack = partial(_pack, inputs, targets, device)
    reports = _ReportTimer(clock)
    for message in _messages(
        data, epochs, pack, evaluations, checkpoint_every, position.step, position.sent_after
    ):
        if enough():
            break
        yield position.advance(message)
        if isinstance(message, Activation) and message.train:
            on_step(position.step)
            if reports.are_due():
                yield _marker(MarkerKind.REPORT, position.step, data)
    has_checkpoint = checkpoint_every is None or position.checkpoint_step == position.step
    yield from map(position.advance, _end(data, pack, position.step, checkpoint=not has_checkpoint))


class _ReportTimer:
    """When a REPORT marker is due: every second, and more often at first, so that a short run has a curve."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = self._last = clock()

    def are_due(self) -> bool:
        now = self._clock()
        due = now - self._last > min(1.0, 0.2 + (now - self._begun) / 50)
        if due:
            self._last = now
        return due


def _end(data: Data, pack: Pack, step: int, *, checkpoint: bool) -> Iterator[Message]:
    """Yield what follows when training has ended after so many steps."""
    if checkpoint:
        yield _marker(MarkerKind.CHECKPOINT, step, data)
    if data.validation is not None:
        yield _marker(MarkerKind.RESTORE, step, data)
        yield from _to_evaluate(data.testing(), pack)
    yield _marker(MarkerKind.STOP, step, data)


def _marker(kind: MarkerKind, step: int, data: Data) -> Marker:
    return Marker(kind, step, _epoch_of(step, data))


def _messages(
    data: Data,
    epochs: int,
    pack: Pack,
    evaluations: int,
    every: int | None,
    step: int,
    sent_after: int | None,
) -> Iterator[Message]:
    """Yield the training batches from number `step` on, and what belongs behind each of them."""
    evaluated = data.evaluation_steps(evaluations)
    if step and sent_after is not None:
        yield from _behind(data, pack, step, evaluated, every, sent_after)
    passed, skip = divmod(step, data.steps_per_epoch)
    for epoch in range(passed + 1, epochs + 1):
        for batch in data.training(epoch, skip):
            yield pack(batch, step, True)
            step += 1
            yield from _behind(data, pack, step, evaluated, every)
        skip = 0


def _behind(
    data: Data, pack: Pack, step: int, evaluated: set[int], every: int | None, skip: int = 0
) -> Iterator[Message]:
    """Yield what belongs behind the first `step` training batches, without the first `skip` messages of it:
    an evaluation, where one is due, and its marker, and the marker of a checkpoint."""
    epoch, markers = _epoch_of(step, data), []
    done = step - (epoch - 1) * data.steps_per_epoch
    last = done == data.steps_per_epoch
    if done in evaluated:
        yield from _to_evaluate(data.evaluation(skip), pack, skip)
        skip = max(0, skip - data.evaluation_batches)
        markers.append(_marker(MarkerKind.EPOCH if last else MarkerKind.EVALUATION, step, data))
    if every is not None and (last or (every and step % every == 0)):
        markers.append(_marker(MarkerKind.CHECKPOINT, step, data))
    yield from markers[skip:]


def _to_evaluate(batches: Iterator[Batch], pack: Pack, first: int = 0) -> Iterator[Message]:
    for number, batch in enumerate(batches, first):
        yield pack(batch, number, False)


def _pack(
    inputs: Boundary, targets: Boundary, device: torch.device, batch: Batch, step: int, train: bool
) -> Activation:
    """Return the message of a batch for stage 0."""
    (h, extras), (y, labels) = inputs.pack(batch[0]), targets.pack(batch[1])
    both = tuple(extra.to(device) for extra in (*extras, *labels))
    return Activation(step, 0, h.to(device), y.to(device), train, both)


def _epoch_of(step: int, data: Data) -> int:
    """Return the epoch, counted from 1, that batch number `step` (counted from 1) belongs to."""
    return -(-step // data.steps_per_epoch)
