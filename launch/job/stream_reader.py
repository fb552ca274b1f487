"""An iterable set as a set of batches, which a loader's workers can read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from launch.job.loading import Loading, seed_by
from launch.job.samples import stack


class StreamReader(IterableDataset[Any]):
    """The batches of an iterable set; each worker reads what the set gives it (see `get_worker_info`)."""

    def __init__(self, dataset: Any, batch_size: int, seeds: tuple[int, ...], loading: Loading) -> None:
        self.dataset, self.batch_size, self.seeds, self.collate = dataset, batch_size, seeds, loading.collate
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        if worker := get_worker_info():
            seed_by(*self.seeds, self.passes, worker.id)
        set_epoch(self.dataset, self.passes)
        self.passes += 1
        return self._batches(iter(self.dataset))

    def _batches(self, samples: Iterator[Any]) -> Iterator[Any]:
        while several := list(islice(samples, self.batch_size)):
            yield stack(several, self.collate)


def set_epoch(owner: object, number: int) -> None:
    """Give the number of the pass, from 0, to a set or a sampler that shuffles by it."""
    if callable(method := getattr(owner, "set_epoch", None)):
        method(number)
