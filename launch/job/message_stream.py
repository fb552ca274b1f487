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

import torch

from dni_async.messages import Activation, Marker, MarkerKind, Message
from launch.job.data import Batch, Data


@dataclass(slots=True)
class Position:
    """How far a stream has come: `start`, `behind` and `kept` of one that goes on."""

    step: int = 0
    behind: int | None = None
    """REPORT markers aside, which depend on the clock."""
    kept: int | None = None

    def follow(self, messages: Iterator[Message]) -> Iterator[Message]:
        """The same messages; each is counted when it is asked for."""
        for message in messages:
            if isinstance(message, Activation) and message.train:
                self.step, self.behind = message.step + 1, 0
                self.kept = message.step if self.kept is None else self.kept
            elif isinstance(message, Activation):
                self.behind = (self.behind or 0) + 1
            elif isinstance(message, Marker) and message.kind is not MarkerKind.REPORT:
                self.behind = (self.behind or 0) + 1
                if message.kind is MarkerKind.CHECKPOINT:
                    self.kept = message.step
            yield message

    def state(self) -> dict[str, int | None]:
        """What another is made from, JSON-able."""
        return asdict(self)


def stream(
    data: Data,
    epochs: int,
    device: torch.device,
    clock: Callable[[], float],
    *,
    evaluations: int = 1,
    checkpoint_every: int | None = None,
    start: int = 0,
    behind: int | None = None,
    kept: int | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[Message]:
    """All messages of a run, in order. A REPORT marker goes in when a second has passed since the last.

    evaluations: per epoch, on the whole test or validation set. checkpoint_every: a CHECKPOINT marker comes
    whenever so many steps are done and at the end of every epoch, behind an evaluation that is due there; 0:
    of epochs only, None: no markers. start: batches that the run, which is resumed, has trained on. behind:
    how many of the messages behind the last of them had gone out; None: all. kept: step of the last
    CHECKPOINT marker; None: of the last batch.
    enough: asked before each message; once it says True, STOP is the next message, wherever the epoch
    stands:

        enough    no      no   no           yes  (the marker of an earlier evaluation has come back)
        message   train   ...  train  REPORT  STOP

    With checkpoints there is one more in front of it, so that the last one is always the end of the run.
    With a validation set RESTORE and the test set stand in front of STOP.
    """
    step, told = start, clock()
    kept = start if kept is None else kept
    for message in _messages(data, epochs, device, evaluations, checkpoint_every, start, behind):
        if enough():
            break
        yield message
        if isinstance(message, Marker) and message.kind is MarkerKind.CHECKPOINT:
            kept = step
        if isinstance(message, Activation) and message.train:
            step = message.step + 1
            if clock() - told > 1.0:
                told = clock()
                yield Marker(MarkerKind.REPORT, step, _epoch_of(step, data))
    if checkpoint_every is not None and kept < step:
        yield Marker(MarkerKind.CHECKPOINT, step, _epoch_of(step, data))
    if data.validation is not None:
        yield Marker(MarkerKind.RESTORE, step, _epoch_of(step, data))
        yield from _to_evaluate(data.testing(), device)
    yield Marker(MarkerKind.STOP, step, _epoch_of(step, data))


def _messages(
    data: Data,
    epochs: int,
    device: torch.device,
    evaluations: int,
    every: int | None,
    start: int,
    behind: int | None,
) -> Iterator[Message]:
    """Training batches from number `start` on, and what stands behind each of them."""
    step, evaluated = start, data.evaluation_steps(evaluations)
    if step and behind is not None:
        yield from _behind(data, device, step, evaluated, every, behind)
    passed, skip = divmod(step, data.steps_per_epoch)
    for epoch in range(passed + 1, epochs + 1):
        for x, y in data.training(epoch, skip):
            yield Activation(step, 0, x.to(device), y.to(device))
            step += 1
            yield from _behind(data, device, step, evaluated, every)
        skip = 0


def _behind(
    data: Data, device: torch.device, step: int, evaluated: set[int], every: int | None, skip: int = 0
) -> Iterator[Message]:
    """What stands behind the first `step` training batches, `skip` messages aside: an evaluation, where one
    is due, and its marker, and the marker of a checkpoint."""
    epoch, markers = _epoch_of(step, data), []
    done = step - (epoch - 1) * data.steps_per_epoch
    last = done == data.steps_per_epoch
    if done in evaluated:
        yield from _to_evaluate(data.evaluation(skip), device, skip)
        skip = max(0, skip - data.evaluation_batches)
        markers.append(Marker(MarkerKind.EPOCH if last else MarkerKind.EVALUATION, step, epoch))
    if every is not None and (last or (every and step % every == 0)):
        markers.append(Marker(MarkerKind.CHECKPOINT, step, epoch))
    yield from markers[skip:]


def _to_evaluate(pairs: Iterator[Batch], device: torch.device, first: int = 0) -> Iterator[Message]:
    for number, (x, y) in enumerate(pairs, first):
        yield Activation(number, 0, x.to(device), y.to(device), train=False)


def _epoch_of(step: int, data: Data) -> int:
    """The epoch, counted from 1, that batch number `step` (counted from 1) belongs to."""
    return -(-step // data.steps_per_epoch)
