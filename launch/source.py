"""Where batches come from: the stream of messages that stage 0 works through.

epoch 1: train ... train | test ... test | EVALUATION | train ... train | test ... test | EPOCH | CHECKPOINT
epoch 2: ...                                                                                          STOP
         every second or so a REPORT mark in between
         every so many steps a CHECKPOINT mark, too
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dni_async.errors import UserError
from dni_async.messages import Activation, Mark, MarkKind, Message
from tasks.pieces import SideBySide

Batch = tuple[Tensor, Tensor]
Part = tuple[int, int]
"""(i, n): the rows of every batch are shared out evenly among n, and these are those of number i."""


@dataclass(slots=True)
class Position:
    """How far a stream has come: `start`, `behind` and `kept` of one that goes on."""

    step: int = 0
    behind: int | None = None
    """REPORT marks aside, which depend on the clock."""
    kept: int | None = None

    def follow(self, messages: Iterator[Message]) -> Iterator[Message]:
        """The same messages; each is counted when it is asked for."""
        for message in messages:
            if isinstance(message, Activation) and message.train:
                self.step, self.behind = message.step + 1, 0
                self.kept = message.step if self.kept is None else self.kept
            elif isinstance(message, Activation):
                self.behind = (self.behind or 0) + 1
            elif isinstance(message, Mark) and message.kind is not MarkKind.REPORT:
                self.behind = (self.behind or 0) + 1
                if message.kind is MarkKind.CHECKPOINT:
                    self.kept = message.step
            yield message

    def state(self) -> dict[str, int | None]:
        """What another is made from, JSON-able."""
        return asdict(self)


@dataclass(slots=True)
class Data:
    """A training and a test set, and how they are cut into batches."""

    train: Dataset[Batch]
    test: Dataset[Batch]
    batch_size: int
    seed: int
    part: Part = (0, 1)

    def __post_init__(self) -> None:
        for name, dataset in (("training", self.train), ("test", self.test)):
            if not size(dataset):
                raise UserError(f"the {name} set is empty; check the task's data")

    @property
    def steps_per_epoch(self) -> int:
        """Training batches of an epoch, a short last one included."""
        return _batches_of(self.train, self.batch_size)

    @property
    def evaluation_batches(self) -> int:
        """Batches of the test set."""
        return _batches_of(self.test, self.batch_size)

    def evaluation_steps(self, evaluations: int) -> set[int]:
        """After how many steps of an epoch the test set is evaluated: equally spaced, the last at its end."""
        return {-(-self.steps_per_epoch * k // evaluations) for k in range(1, evaluations + 1)}

    def rows(self, step: int) -> int:
        """Samples in training batch number `step` of the run, counted from 0."""
        return min(self.batch_size, size(self.train) - step % self.steps_per_epoch * self.batch_size)

    def sample(self) -> Batch:
        """One training batch, to learn shapes and to measure costs; with zeros for what is NaN or infinite,
        which training meets in its own way."""
        x, y = (tensor.nan_to_num(0.0, 0.0, 0.0) for tensor in next(self.training(0)))
        return x, y

    def training(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; their order depends on seed and epoch alone, so all
        engines share it."""
        return batches(
            self.train,
            self.batch_size,
            torch.Generator().manual_seed(self.seed * 1_000_003 + epoch),
            self.part,
            start,
        )

    def evaluation(self, start: int = 0) -> Iterator[Batch]:
        """The whole test set, from batch number `start` on."""
        return batches(self.test, self.batch_size, part=self.part, start=start)


def size(dataset: Dataset[Batch]) -> int:
    """Samples in a map-style data set."""
    if not hasattr(dataset, "__len__"):
        raise UserError(f"data set {type(dataset).__name__} has no length; give a map-style data set")
    return len(cast(Sized, dataset))


def _batches_of(dataset: Dataset[Batch], batch_size: int) -> int:
    if isinstance(dataset, SideBySide):
        return dataset.steps(batch_size)
    return -(-size(dataset) // batch_size)


def batches(
    dataset: Dataset[Batch],
    batch_size: int,
    shuffle: torch.Generator | None = None,
    part: Part = (0, 1),
    start: int = 0,
) -> Iterator[Batch]:
    """Batches of (x, y), in order or shuffled; tensors are indexed directly, the rest goes by DataLoader.

    A `SideBySide` has an order of its own, which is not shuffled.
    part: of each batch's rows; may be none of a short last batch. start: number of the first batch; no sample
    before it is read.
    """
    in_order = shuffle is None and not isinstance(dataset, SideBySide)
    if isinstance(dataset, TensorDataset) and in_order:
        x, y = dataset.tensors
        for x_batch, y_batch in zip(x.split(batch_size)[start:], y.split(batch_size)[start:], strict=True):
            yield part_of(x_batch, part), part_of(y_batch, part)
        return
    indices = _order(dataset, batch_size, shuffle)[start:]
    if not isinstance(dataset, TensorDataset):
        numbers = [index.tolist() for index in indices]
        # a generator of its own: it would draw from the one of the process, in a resumed run once more
        for x, y in DataLoader(dataset, batch_sampler=numbers, generator=torch.Generator()):
            yield part_of(x, part), part_of(y, part)
        return
    x, y = dataset.tensors
    for index in indices:
        index = part_of(index, part)
        yield x.index_select(0, index), y.index_select(0, index)  # three times as fast as x[index]


def _order(dataset: Dataset[Batch], batch_size: int, shuffle: torch.Generator | None) -> Sequence[Tensor]:
    """The numbers of the samples in each batch."""
    if isinstance(dataset, SideBySide):
        return dataset.order(batch_size).unbind()
    count = size(dataset)
    order = torch.arange(count) if shuffle is None else torch.randperm(count, generator=shuffle)
    return order.split(batch_size)


def part_of(rows: Tensor, part: Part) -> Tensor:
    """One of several equal parts of the rows; where they do not divide, the first parts have one more."""
    number, parts = part
    return rows.tensor_split(parts)[number] if parts > 1 else rows


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
    """All messages of a run, in order. A REPORT mark goes in when a second has passed since the last.

    evaluations: on the whole test set, per epoch. checkpoint_every: a CHECKPOINT mark comes whenever so many
    steps are done and at the end of every epoch, behind an evaluation that is due there; 0: of epochs only,
    None: no marks. start: batches that the run, which is resumed, has trained on. behind: how many of the
    messages behind the last of them had gone out; None: all. kept: step of the last CHECKPOINT mark; None: of
    the last batch.
    enough: asked before each message; once it says True, STOP is the next message, wherever the epoch
    stands:

        enough    no      no   no           yes  (the mark of an earlier evaluation has come back)
        message   train   ...  train  REPORT  STOP

    With checkpoints there is one more in front of it, so that the last one is always the end of the run.
    """
    step, told = start, clock()
    kept = start if kept is None else kept
    for message in _messages(data, epochs, device, evaluations, checkpoint_every, start, behind):
        if enough():
            break
        yield message
        if isinstance(message, Mark) and message.kind is MarkKind.CHECKPOINT:
            kept = step
        if isinstance(message, Activation) and message.train:
            step = message.step + 1
            if clock() - told > 1.0:
                told = clock()
                yield Mark(MarkKind.REPORT, step, _epoch_of(step, data))
    if checkpoint_every is not None and kept < step:
        yield Mark(MarkKind.CHECKPOINT, step, _epoch_of(step, data))
    yield Mark(MarkKind.STOP, step, _epoch_of(step, data))


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
    """What stands behind the first `step` training batches, `skip` messages aside: the test set and its mark,
    where one is due, and the mark of a checkpoint."""
    epoch, marks = _epoch_of(step, data), []
    done = step - (epoch - 1) * data.steps_per_epoch
    last = done == data.steps_per_epoch
    if done in evaluated:
        for number, (x, y) in enumerate(data.evaluation(skip), skip):
            yield Activation(number, 0, x.to(device), y.to(device), train=False)
        skip = max(0, skip - data.evaluation_batches)
        marks.append(Mark(MarkKind.EPOCH if last else MarkKind.EVALUATION, step, epoch))
    if every is not None and (last or (every and step % every == 0)):
        marks.append(Mark(MarkKind.CHECKPOINT, step, epoch))
    yield from marks[skip:]


def _epoch_of(step: int, data: Data) -> int:
    """The epoch, counted from 1, that batch number `step` (counted from 1) belongs to."""
    return -(-step // data.steps_per_epoch)
