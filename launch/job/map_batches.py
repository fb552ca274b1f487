"""The batches of a map-style set, whose samples have numbers: in order, or shuffled by seed and epoch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from launch.job.loading import Loading, Part, ReadAhead, Request, SampleReader, part_of
from launch.job.samples import size
from tasks.contiguous import ContiguousBatches


class MapBatches:
    """A map-style set in batches. Tensors are indexed directly, other sets are read sample by sample.

    Args:
        part: of each batch's rows; of a short last batch it may have no rows.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        seed: int,
        part: Part = (0, 1),
        loading: Loading | None = None,
    ) -> None:
        self.dataset, self.batch_size, self.seed, self.part = dataset, batch_size, seed, part
        self.loading = loading or Loading()
        self.tensors = None
        if isinstance(dataset, TensorDataset) and self.loading.collate is None:
            self.tensors = dataset.tensors
        self._placed: Sequence[Tensor] | None = None
        """The tensors on the GPU, if they are kept there."""
        self._reader = SampleReader(dataset, self.loading.collate, part)
        self._ahead: ReadAhead | None = None

    def __len__(self) -> int:
        """Return the number of batches, a short last one included."""
        if isinstance(self.dataset, ContiguousBatches):
            return self.dataset.steps(self.batch_size)
        return -(-size(self.dataset) // self.batch_size)

    @property
    def nbytes(self) -> int:
        """The size of the tensors; 0 for a set of another kind."""
        return sum(tensor.nbytes for tensor in self.tensors or ())

    def place_on(self, device: torch.device) -> None:
        """Keep the tensors, if it is a set of tensors, on a device, where batches are made from now
        on. `first` still makes its batch on the host."""
        if self.tensors is not None:
            self._placed = [tensor.to(device) for tensor in self.tensors]

    def shuffled(self, epoch: int, start: int = 0, end: int | None = None) -> Iterator[Any]:
        """Yield the batches `start` to `end` of an epoch, in an order that depends on seed and epoch alone. A
        `ContiguousBatches` has an order of its own, which is not shuffled."""
        if self._by_workers:
            end = end or len(self)
            self._ahead = self._ahead or ReadAhead(
                self._reader,
                self.loading,
                partial(_requests, self.dataset, self.batch_size, self.seed, end, True),
            )
            return self._ahead.read(epoch, start, end)
        return self._in_process(self._order(epoch)[start:end], self._placed)

    def in_order(self, start: int = 0) -> Iterator[Any]:
        """Yield the batches from number `start` on."""
        if self.tensors is not None and not isinstance(self.dataset, ContiguousBatches):
            return self._slices(self._placed or self.tensors, start)
        if self._by_workers:
            count = len(self)
            self._ahead = self._ahead or ReadAhead(
                self._reader,
                replace(self.loading, workers=min(count, self.loading.workers)),
                partial(_requests, self.dataset, self.batch_size, self.seed, count, False),
            )
            return self._ahead.read(self._ahead.next[0], start, count)
        return self._in_process(self._order(None)[start:], self._placed)

    @property
    def _by_workers(self) -> bool:
        return self.tensors is None and self.loading.workers > 0

    def first(self) -> Any:
        """Return the first batch of what would be epoch 0, read in this process."""
        return next(self._in_process(self._order(0)[:1]))

    def _order(self, epoch: int | None) -> Sequence[Tensor]:
        return _order(self.dataset, self.batch_size, self.seed, epoch)

    def _in_process(self, indices: Sequence[Tensor], placed: Sequence[Tensor] | None = None) -> Iterator[Any]:
        tensors = placed or self.tensors
        if placed and indices:  # copied once for all batches
            lengths = [len(index) for index in indices]
            indices = torch.cat(list(indices)).to(placed[0].device).split(lengths)
        for index in indices:
            if tensors is None:
                yield self._reader[index.tolist()]
            else:
                index = part_of(index, self.part)
                # three times as fast as tensor[index]
                yield tuple(tensor.index_select(0, index) for tensor in tensors)

    def _slices(self, tensors: Sequence[Tensor], start: int) -> Iterator[Any]:
        for batch in zip(*(tensor.split(self.batch_size)[start:] for tensor in tensors), strict=True):
            yield tuple(part_of(tensor, self.part) for tensor in batch)


def _requests(
    dataset: Dataset[Any], batch_size: int, seed: int, end: int, shuffle: bool, epoch: int, start: int
) -> Iterator[Request]:
    """Yield what workers read for the batches from number `start` of an epoch on, epoch after epoch."""
    for each in itertools.count(epoch) if shuffle else itertools.repeat(0):
        order = _order(dataset, batch_size, seed, each if shuffle else None)[start:end]
        for number, index in enumerate(order, start):
            yield (seed, each, number), index.tolist()
        start = 0


def _order(dataset: Dataset[Any], batch_size: int, seed: int, epoch: int | None) -> Sequence[Tensor]:
    """Return the numbers of the samples in each batch: shuffled for an epoch, or in order (None)."""
    if isinstance(dataset, ContiguousBatches):
        return dataset.order(batch_size).unbind()
    count = size(dataset)
    if epoch is None:
        return torch.arange(count).split(batch_size)
    chance = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=chance).split(batch_size)
