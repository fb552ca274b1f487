"""How the batches of a set are read, and the processes that read them (workers of torch's DataLoader)."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dni_async.errors import Late
from dni_async.trees import map_tensors
from launch.job.samples import stack
from tasks.base import seed_everything
from workers.failure.loader_errors import original_error
from workers.runtime.loader_worker import WorkerStart

WORKER_CHECK_INTERVAL_S = 1.0
"""How often a loader that waits for a batch checks whether its workers are alive."""
MORE_THAN_CORES = "This DataLoader will create"
"""How torch's warning begins that there are more workers than cores; they may well wait for a disk."""
Request = tuple[tuple[int, ...], list[int]]
"""Of a batch: numbers to seed the random generators by, and the numbers of its samples."""
Part = tuple[int, int]
"""(i, n): part i of the rows of every batch, which are divided evenly into n parts."""


def _print_nothing(line: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How the sets of a task are read."""

    steps_per_epoch: int = 0
    """Batches of an epoch; 0: those of the training set."""
    workers: int = 0
    """Processes that read each set; 0: this process reads."""
    prefetch: int = 2
    """Batches that each of them reads ahead."""
    pin: bool = False
    """Whether batches are put into memory that a GPU copies from quickly."""
    timeout: float = 60.0
    """Seconds that the next batch of workers may take."""
    collate: Callable[[list[Any]], Any] | None = None
    """Makes a batch of samples; None: torch's `default_collate`."""
    announce: Callable[[str], None] = _print_nothing
    """Gets lines for the user."""


class SampleReader(Dataset[Any]):
    """Batches of a map-style set by the numbers of their samples."""

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any] | None, part: Part) -> None:
        self.dataset, self.collate, self.part = dataset, collate, part

    def __getitem__(self, numbers: list[int]) -> Any:
        if several := getattr(self.dataset, "__getitems__", None):
            samples = several(numbers)
        else:
            samples = [self.dataset[number] for number in numbers]
        return map_tensors(partial(part_of, part=self.part), stack(samples, self.collate))


class SeededReader(Dataset[Any]):
    """The same in a worker: what the set draws for a batch depends on the batch alone, not on which worker
    reads it and on what it has read before."""

    def __init__(self, reader: SampleReader) -> None:
        self.reader = reader

    def __getitem__(self, request: Request) -> Any:
        seeds, numbers = request
        seed_by(*seeds)
        return self.reader[numbers]


class ReadAhead:
    """Batches of a map-style set in the order of epochs, which workers read ahead: also those of the next
    epoch, while the last batches of this one are trained, or while others are evaluated.

    Args:
        requests: (epoch, first batch) -> what the workers read from there on, without end.
    """

    def __init__(
        self, reader: SampleReader, loading: Loading, requests: Callable[[int, int], Iterator[Request]]
    ) -> None:
        self._reader, self._loading, self._requests = SeededReader(reader), loading, requests
        self._batches: Iterator[Any] = iter(())
        self.next = (0, -1)
        """Epoch and number of the batch that comes next."""

    def read(self, epoch: int, start: int, end: int) -> Iterator[Any]:
        """Yield the batches `start` to `end` of an epoch; `end` is the end of every epoch."""
        if self.next != (epoch, start):
            self._batches = iter(())  # its workers end
            loader = worker_loader(
                self._reader, self._loading, False, _Sequence(self._requests, epoch, start)
            )
            self._batches = iterate(loader, self._loading.timeout)
        for number in range(start, end):
            self.next = (epoch, number + 1) if number + 1 < end else (epoch + 1, 0)
            yield next(self._batches)


class _Sequence:
    """Requests as a DataLoader takes them."""

    def __init__(self, requests: Callable[[int, int], Iterator[Request]], epoch: int, start: int) -> None:
        self._begin = partial(requests, epoch, start)

    def __iter__(self) -> Iterator[Request]:
        return self._begin()


def worker_loader(
    reader: Dataset[Any], loading: Loading, persistent: bool, requests: Any = None
) -> DataLoader[Any]:
    """Return a loader with workers, whose data set makes whole batches.

    Args:
        persistent: whether workers live on after the last batch, for the next pass.
        requests: an iterable of what a map-style set has to read.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MORE_THAN_CORES, UserWarning)
        return DataLoader(
            reader,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=loading.workers,
            prefetch_factor=loading.prefetch,
            pin_memory=loading.pin,
            timeout=WORKER_CHECK_INTERVAL_S,
            worker_init_fn=WorkerStart(),
            multiprocessing_context="fork",  # the set need not be pickled, and its memory is shared
            # without a generator of its own it would draw from the global one, once more in a resumed run
            generator=torch.Generator(),
            persistent_workers=persistent,
            sampler=requests,
        )


def use_loader(loader: Any) -> Any:
    """Return a loader of the task's own, whose workers, if it has some, are like ours from now on."""
    if getattr(loader, "num_workers", 0):
        if loader.multiprocessing_context is None:
            loader.multiprocessing_context = "fork"
        loader.worker_init_fn = WorkerStart(loader.worker_init_fn)
        loader.timeout = WORKER_CHECK_INTERVAL_S
    return loader


def iterate(loader: Iterable[Any], timeout: float) -> Iterator[Any]:
    """Start the workers of a loader, and return an iterator over its batches.

    Args:
        timeout: seconds that the next batch may take.

    Raises:
        Late: the workers have not made the next batch in time.
        Exception: the error of a worker, as `original_error` returns it.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        warnings.filterwarnings("ignore", MORE_THAN_CORES, UserWarning)
        iterator = iter(loader)
    if signal.getsignal(signal.SIGCHLD) is not handler:
        # torch's would raise the death of a worker wherever we are
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
    return _batches(iterator, timeout)


def _batches(iterator: Iterator[Any], timeout: float) -> Iterator[Any]:
    begun = time.monotonic()
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            if str(error).startswith("DataLoader timed out"):  # all workers live
                if time.monotonic() < begun + timeout:
                    continue
                raise Late(f"the workers of the loader have made no batch for {timeout:g} s") from error
            failure = original_error(error)
            if failure is error:
                raise
            error.__traceback__ = None  # a circle, by way of torch's frames, with the iterator in it
        else:
            yield batch
            begun = time.monotonic()
            continue
        del iterator  # so that its workers end now
        raise failure from failure.__cause__


def seed_by(*numbers: int) -> None:
    """Seed the generators of torch, numpy and Python by several numbers together."""
    seed_everything(int(numpy.random.SeedSequence(numbers).generate_state(1, numpy.uint64)[0]) >> 1)


def part_of(rows: Tensor, part: Part) -> Tensor:
    """Return one of several equal parts of the rows; if they do not divide, the first parts have one more."""
    number, parts = part
    return rows.tensor_split(parts)[number] if parts > 1 else rows


def _as_it_is(batch: Any) -> Any:
    return batch
