"""The data of a run, cut into batches: the same ones in the same order for every engine.

a set of the task                                       read as          order
map-style (TensorDataset, `__len__`, `__getitem__`)     MapBatches       shuffled by seed and epoch alone
iterable (`__iter__`), or a loader of the task's own    StreamBatches    as they come
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from dni_async.errors import UserError
from dni_async.state.state_dict import State
from dni_async.trees import describe_tree, map_tensors
from launch.config.data import DataConfig
from launch.config.task import TaskConfig
from launch.job.loading import Loading, Part
from launch.job.map_batches import MapBatches
from launch.job.samples import check_set, is_loader, is_stream, size
from launch.job.stream_batches import StreamBatches
from tasks.base import Task
from workers.runtime.accelerator import Accelerator

Batch = tuple[Any, Any]
"""Inputs and targets: trees of tensors (B, ...)."""
Split = Callable[[Any], Batch]
"""Makes inputs and targets of a batch of samples; see `Task.batch`."""


SHARE_OF_MEMORY = 0.1
"""Of a GPU's free memory, that the data sets may take: other ranks may share it, and layers come later."""


@dataclass(slots=True)
class Data:
    """Training, test and validation set, and how they are cut into batches.

    Without a validation set evaluations are on the test set.
    """

    train: Dataset[Any]
    test: Dataset[Any]
    batch_size: int
    seed: int
    part: Part = (0, 1)
    validation: Dataset[Any] | None = None
    split: Split = tuple
    loading: Loading = field(default_factory=Loading)
    steps_per_epoch: int = field(init=False)
    """Training batches of an epoch, a short last one included."""
    _batches: dict[str, MapBatches | StreamBatches] = field(init=False, repr=False)
    _sample: Batch | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        for name, dataset in self.sets().items():
            check_set(name, dataset)
        self._check_loader()
        self._batches = {name: self._batches_of(name, dataset) for name, dataset in self.sets().items()}
        self.steps_per_epoch = self._steps_per_epoch()

    def _check_loader(self) -> None:
        if not is_loader(self.train):
            return
        own = getattr(self.train, "batch_size", None)
        if own not in (None, self.batch_size):
            raise UserError(
                f"batch-size is {self.batch_size}, and the task's own loader makes batches of {own}; use "
                f"--batch-size {own}"
            )
        if self.loading.workers:
            raise UserError(
                f"loader-workers is {self.loading.workers}, and the task has a loader of its own; leave it "
                "out, and set num_workers of that loader"
            )

    def _batches_of(self, name: str, dataset: Dataset[Any]) -> MapBatches | StreamBatches:
        if is_stream(dataset):
            return StreamBatches(dataset, name, self.batch_size, self.seed, self.part, self.loading)
        return MapBatches(dataset, self.batch_size, self.seed, self.part, self.loading)

    def _steps_per_epoch(self) -> int:
        train, given = self._batches["training"], self.loading.steps_per_epoch
        if isinstance(train, MapBatches):
            if given > len(train):
                raise UserError(
                    f"steps-per-epoch is {given}, and the training set has {len(train)} batches; lower it, "
                    "or leave it out"
                )
            return given or len(train)
        train.steps_per_epoch = given or train.natural_length() or 0
        if not train.steps_per_epoch:
            raise UserError(
                f"the training set ({type(self.train).__name__}) has no length; give --steps-per-epoch"
            )
        return train.steps_per_epoch

    def sets(self) -> dict[str, Dataset[Any]]:
        """Return the data sets by name."""
        validation = {} if self.validation is None else {"validation": self.validation}
        return {"training": self.train, "test": self.test} | validation

    @property
    def is_stream(self) -> bool:
        """Whether the training set is iterable or a loader, so that its samples have no numbers."""
        return isinstance(self._batches["training"], StreamBatches)

    @property
    def evaluated(self) -> Dataset[Any]:
        """The data set that evaluations are on."""
        return self.test if self.validation is None else self.validation

    @property
    def evaluation_batches(self) -> int:
        """The number of batches in one evaluation of the whole test or validation set; where only reading
        shows it, in the last evaluation."""
        batches = self._evaluated()
        return len(batches) if isinstance(batches, MapBatches) else batches.last_pass or 0

    def evaluation_steps(self, evaluations: int) -> set[int]:
        """Return the steps of an epoch after which to evaluate: equally spaced, the last at its end."""
        return {-(-self.steps_per_epoch * k // evaluations) for k in range(1, evaluations + 1)}

    def rows(self, step: int) -> int:
        """Return the number of samples in training batch number `step` of the run, counted from 0; without
        numbered samples, in the batch that was read last."""
        train = self._batches["training"]
        if isinstance(train, StreamBatches):
            return train.rows
        return min(self.batch_size, size(self.train) - step % self.steps_per_epoch * self.batch_size)

    def smallest_batch(self) -> int | None:
        """Return the rows of the smallest training batch; None where only reading would show them."""
        return None if self.is_stream else min(self.rows(0), self.rows(self.steps_per_epoch - 1))

    def sample(self) -> Batch:
        """Return one training batch, for shapes and costs; values that are NaN or infinite are zeros."""
        if self._sample is None or not self.is_stream:
            batch = next(self._split(iter([self._batches["training"].first()])))
            inputs, targets = map_tensors(lambda tensor: tensor.nan_to_num(0.0, 0.0, 0.0), batch)
            self._sample = inputs, targets
        return self._sample

    def training(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on, the same ones for all engines. Without
        numbered samples they are those behind the batches that were read last."""
        train = self._batches["training"]
        if isinstance(train, StreamBatches):
            return self._split(train.training(self.steps_per_epoch - start))
        return self._split(train.shuffled(epoch, start, self.steps_per_epoch))

    def evaluation(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `evaluated`, from number `start` on."""
        return self._split(_whole(self._evaluated(), start))

    def testing(self) -> Iterator[Batch]:
        """Yield the batches of the test set."""
        return self._split(_whole(self._batches["test"]))

    def place_on(self, accelerator: Accelerator | None) -> None:
        """Keep the sets of tensors on a GPU from now on, if they are small beside its free memory: batches
        are made there then, and nothing is copied in a step."""
        sets = [each for each in self._batches.values() if isinstance(each, MapBatches)]
        if accelerator and sum(each.nbytes for each in sets) <= accelerator.free_bytes() * SHARE_OF_MEMORY:
            for each in sets:
                each.place_on(accelerator.device)

    def state_dict(self) -> State | None:
        """Return the state of the training set's reading behind the last batch; None where a resumed run
        needs the number of batches only."""
        train = self._batches["training"]
        return train.state_dict() if isinstance(train, StreamBatches) else None

    def resume(self, step: int, state: State | None) -> None:
        """Go on behind training batch number `step` of the run.

        Args:
            state: behind this batch or one before it.
        """
        train = self._batches["training"]
        if isinstance(train, StreamBatches):
            train.resume(step, state)

    def _evaluated(self) -> MapBatches | StreamBatches:
        return self._batches["test" if self.validation is None else "validation"]

    def _split(self, batches: Iterator[Any]) -> Iterator[Batch]:
        for samples in batches:
            batch = self.split(samples)
            if not (isinstance(batch, tuple) and len(batch) == 2):
                raise UserError(
                    f"batch of the task returned {describe_tree(batch)}; return (inputs, targets)"
                )
            yield batch


def _whole(batches: MapBatches | StreamBatches, start: int = 0) -> Iterator[Any]:
    return batches.in_order(start) if isinstance(batches, MapBatches) else batches.whole_pass(start)


def read(
    config: TaskConfig,
    task: Task,
    part: Part = (0, 1),
    patience: int = 0,
    data: DataConfig | None = None,
    **loading: Any,
) -> Data:
    """Return the data of a task; with `patience` also its validation set.

    Args:
        loading: more settings of `Loading`.

    Raises:
        UserError: there are no data, or no validation set where one is needed.
    """
    root = config.data_folder()
    sets = task.data(root)
    if not isinstance(sets, tuple | list) or len(sets) != 2:
        raise UserError(f"data() of task {task.name} must return a training set and a test set")
    train, test = sets
    validation = task.validation(root) if patience else None
    if patience and validation is None:
        raise UserError(
            f"patience is {patience}, and task {task.name} has no validation set to end early by; "
            "leave it out, or hold samples out (--task-args validation=N; in a task of your own write "
            "`validation`)"
        )
    data = data or DataConfig()
    how = Loading(
        steps_per_epoch=data.steps_per_epoch,
        workers=data.loader_workers,
        prefetch=data.prefetch,
        collate=None if type(task).collate is Task.collate else task.collate,
        **loading,
    )
    return Data(train, test, config.batch_size, config.seed, part, validation, task.batch, how)
