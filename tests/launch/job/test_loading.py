"""Worker processes read the batches of a map-style set ahead: the same batches in the same order."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dni_async.errors import Late, UserError
from launch.job.data import Data
from launch.job.loading import Loading, iterate, use_loader
from launch.job.samples import stack
from tests.support.numbered_data import Pairs, labels, numbered
from workers.failure.errors import format_error
from workers.failure.loader_errors import LoaderError


class Drawn(Dataset[Any]):
    """Samples of chance, and their numbers."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([torch.rand(()), numpy.random.rand(), random.random()]), index


class Workers(Drawn):
    """The process that reads, and the numbers of samples."""

    def __getitem__(self, index: int) -> tuple[int, int]:
        return os.getpid(), index


class Failing(Drawn):
    """Fails at its sample 8, in the middle of a batch."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getitem__(self, index: int) -> Any:
        if index != 8 or self.kind == "no error":
            return super().__getitem__(index)
        if self.kind == "error":
            raise KeyError("dim")
        if self.kind == "end":
            os._exit(1)
        if self.kind == "sleep":
            time.sleep(2)
        return {"x": 1}


def read(dataset: Any, workers: int = 2, **loading: Any) -> Data:
    return Data(dataset, dataset, 3, 0, loading=Loading(workers=workers, **loading))


def test_workers_read_the_batches_of_this_process_in_its_order() -> None:
    alone, helped = (read(Pairs(numbered(10)), workers) for workers in (0, 2))
    for epoch in (1, 2):
        assert labels(helped.training(epoch)) == labels(alone.training(epoch))
        assert labels(helped.training(epoch, 2)) == labels(alone.training(epoch, 2))
    assert labels(helped.evaluation(1)) == labels(alone.evaluation(1)) == [[3, 4, 5], [6, 7, 8], [9]]


def test_several_processes_read_and_live_from_epoch_to_epoch() -> None:
    data = read(Workers(), prefetch=1)
    first, second = ({pid for pids, _ in data.training(epoch) for pid in pids.tolist()} for epoch in (1, 2))
    assert first == second and len(first) == 2 and os.getpid() not in first
    tested = {pid for pids, _ in data.testing() for pid in pids.tolist()}
    assert len(tested) == 2 and not tested & first


def test_an_epoch_may_begin_before_all_batches_of_another_one_were_taken() -> None:
    alone, helped = (read(Pairs(numbered(10)), workers) for workers in (0, 2))
    next(helped.training(1))
    assert labels(helped.training(2)) == labels(alone.training(2))


def test_what_is_drawn_for_a_batch_depends_on_seed_epoch_and_batch_alone() -> None:
    one, three = (list(read(Drawn(), workers).training(1)) for workers in (1, 3))
    for (x, y), (x3, y3) in zip(one, three, strict=True):
        assert torch.equal(x, x3) and torch.equal(y, y3)
    assert torch.equal(next(read(Drawn(), 2).training(1, 2))[0], one[2][0])
    drawn = torch.cat([x for x, _ in one])
    assert len(drawn.unique()) == 30
    assert not torch.equal(next(read(Drawn(), 1).training(2))[0], one[0][0])
    assert not torch.equal(
        next(Data(Drawn(), Drawn(), 3, 1, loading=Loading(workers=1)).training(1))[0], one[0][0]
    )


def test_reading_with_workers_leaves_the_generators_of_this_process_alone() -> None:
    data = read(Drawn())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(data.training(1))
    assert torch.equal(torch.rand(1), expected)


def test_every_part_of_a_batch_may_have_workers() -> None:
    parts = [Data(Drawn(), Drawn(), 4, 0, (i, 2), loading=Loading(workers=1)) for i in range(2)]
    whole = Data(Drawn(), Drawn(), 4, 0, loading=Loading(workers=1))
    for (x, y), *halves in zip(whole.training(1), *(part.training(1) for part in parts), strict=True):
        assert torch.equal(torch.cat([half[0] for half in halves]), x)
        assert torch.equal(torch.cat([half[1] for half in halves]), y)


def test_an_error_of_the_set_is_that_of_this_process_with_its_place() -> None:
    with pytest.raises(LoaderError, match=r"^KeyError: 'dim'$") as error:
        list(read(Failing("error")).evaluation())
    assert format_error(error.value).endswith("in __getitem__())")
    with pytest.raises(UserError, match=r"^a sample is \{x: 1\}; give tensors") as wrong:
        list(read(Failing("odd")).evaluation())
    assert "DataLoader" not in str(wrong.value)


@pytest.mark.slow
def test_a_worker_that_ends_is_noticed() -> None:
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid\(s\) \d+\) exited unexpectedly"):
        list(read(Failing("end")).evaluation())


def test_a_batch_has_a_deadline() -> None:
    with pytest.raises(Late, match=r"^the workers of the loader have made no batch for 0.2 s"):
        list(read(Failing("sleep"), timeout=0.2).evaluation())


def test_samples_may_be_read_several_at_once() -> None:
    class Several(Drawn):
        def __getitem__(self, index: int) -> Any:
            raise AssertionError("one by one")

        def __getitems__(self, numbers: list[int]) -> list[Any]:
            return [(torch.tensor([number]), number) for number in numbers]

    assert labels(read(Several(), 0).evaluation()) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_the_task_may_collate_and_tensors_are_then_collated_too() -> None:
    def reversed_(samples: list[Any]) -> Any:
        return stack(samples[::-1])

    for workers in (0, 1):
        data = read(numbered(4), workers, collate=reversed_)
        assert labels(data.evaluation()) == [[2, 1, 0], [3]]


class Started:
    def __init__(self) -> None:
        self.workers: list[int] = []

    def __call__(self, worker: int) -> None:
        torch.manual_seed(7)


def test_a_loader_of_the_task_gets_workers_of_our_kind_and_keeps_its_own_start() -> None:
    loader = use_loader(DataLoader(Drawn(), 3, num_workers=1, worker_init_fn=Started()))
    assert loader.multiprocessing_context.get_start_method() == "fork"
    torch.manual_seed(7)
    expected = torch.rand(())
    batches: Iterator[Any] = iterate(loader, 60.0)
    assert torch.equal(next(batches)[0][0, 0], expected.double().to(torch.float32))
    without = DataLoader(Drawn(), 3)
    assert use_loader(without) is without and without.worker_init_fn is None
