"""Iterable sets and loaders of a task's own: an endless sequence of batches, resumed anywhere."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dni_async.errors import UserError
from launch.job.data import Data
from launch.job.loading import Loading
from tests.support.numbered_data import Pairs, labels, numbered


class Stream(IterableDataset[Any]):
    """Samples in order, each with a random number from every generator."""

    def __init__(self, count: int = 10, divided: bool = True) -> None:
        self.count, self.divided = count, divided

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        worker = get_worker_info() if self.divided else None
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, self.count, step):
            yield torch.tensor([torch.rand(()), numpy.random.rand(), random.random()]), number


class Known(Stream):
    """A stream with a length."""

    def __len__(self) -> int:
        return self.count


class Stateful(Stream):
    """A stream that can go on anywhere."""

    def __init__(self, count: int = 10) -> None:
        super().__init__(count)
        self.place, self.read = 0, 0

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        while self.place < self.count:
            self.place, self.read = self.place + 1, self.read + 1
            yield torch.rand(3), self.place - 1
        self.place = 0

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


def read(train: Any, steps: int = 3, test: Any = None, batch_size: int = 2, **loading: Any) -> Data:
    loading = {"steps_per_epoch": steps, **loading}
    return Data(train, test or numbered(3, 100), batch_size, 0, loading=Loading(**loading))


def epochs(data: Data, first: int, last: int, start: int = 0) -> list[Any]:
    """The labels of the batches of these epochs."""
    return [labels(data.training(epoch, start if epoch == first else 0)) for epoch in range(first, last + 1)]


def inputs(pairs: Iterable[Any]) -> list[Tensor]:
    return [x for x, _ in pairs]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_an_epoch_goes_on_where_the_one_before_has_ended_and_a_set_that_ends_begins_again() -> None:
    lines: list[str] = []
    data = read(Stream(), announce=lines.append)
    assert epochs(data, 1, 3) == [
        [[0, 1], [2, 3], [4, 5]],
        [[6, 7], [8, 9], [0, 1]],
        [[2, 3], [4, 5], [6, 7]],
    ]
    assert lines == ["the training set ended after 5 batches, within epoch 2: it begins again"]


@pytest.mark.parametrize(
    "train", [Known(5), DataLoader(Pairs(numbered(5)), 2), DataLoader(Known(5), 2)], ids=type
)
def test_a_set_or_loader_with_a_length_is_an_epoch(train: Any) -> None:
    lines: list[str] = []
    data = read(train, 0, announce=lines.append)
    assert data.steps_per_epoch == 3
    assert epochs(data, 1, 2) == [[[0, 1], [2, 3], [4]]] * 2
    assert not lines


def test_the_sample_is_the_first_batch_and_is_trained_all_the_same() -> None:
    once = iter([(torch.rand(3), number) for number in range(6)])
    data = read(once)
    assert data.sample()[1].tolist() == data.sample()[1].tolist() == [0, 1]
    assert epochs(data, 1, 1) == [[[0, 1], [2, 3], [4, 5]]]
    with pytest.raises(UserError, match=r"^the training set gives nothing when it is read again \(pass 2\)"):
        next(data.training(2))


def test_the_rows_of_a_step_are_those_of_the_batch() -> None:
    data = read(Known(5), 0)
    assert data.rows(0) == 2 and data.smallest_batch() is None
    assert [(len(y), data.rows(0)) for _, y in data.training(1)] == [(2, 2), (2, 2), (1, 1)]
    halves = [Data(Stream(5), numbered(3), 3, 0, (i, 2), loading=Loading(steps_per_epoch=2)) for i in (0, 1)]
    assert [[(y.tolist(), part.rows(0)) for _, y in part.training(1)] for part in halves] == [
        [([0, 1], 3), ([3], 2)],
        [([2], 3), ([4], 2)],
    ]


def test_a_stream_is_evaluated_whole_and_draws_the_same_every_time() -> None:
    data = read(Stream(), test=Stream(5))
    assert labels(data.evaluation()) == [[0, 1], [2, 3], [4]]
    assert data.evaluation_batches == 3
    assert labels(data.evaluation(2)) == [[4]] and data.evaluation_batches == 3
    assert labels(data.evaluation(7)) == [] and data.evaluation_batches == 3
    assert equal(inputs(data.testing()), inputs(data.testing()))


def test_a_long_evaluation_on_a_stream_is_announced_once_as_its_set_may_have_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("launch.job.stream_batches.LONG_PASS_S", 0.0)
    lines: list[str] = []
    data = read(Stream(), test=Stream(10**9), announce=lines.append)
    evaluation = data.evaluation()
    for _ in range(4):
        next(evaluation)
    assert lines == [
        "an evaluation has read 1 batches of the test set and goes on; the set must end by itself"
    ]


@pytest.mark.parametrize("name", ["training", "test"])
def test_a_stream_without_samples_is_refused(name: str) -> None:
    data = read(Stream(0 if name == "training" else 4), test=Stream(0))
    with pytest.raises(UserError, match=f"^the {name} set is empty; check the task's data$"):
        list(data.training(1) if name == "training" else data.testing())


def test_what_a_stream_draws_depends_on_seed_and_pass_alone() -> None:
    data, other = read(Stream(4), 2), read(Stream(4), 2)
    first = inputs(data.training(1))
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    assert equal(inputs(other.training(1)), first)
    assert torch.equal(torch.rand(1), expected)
    assert not equal(inputs(data.training(2)), first)
    assert not equal(
        inputs(Data(Stream(4), numbered(1), 2, 1, loading=Loading(steps_per_epoch=2)).training(1)), first
    )


def make(kind: str) -> tuple[Any, int]:
    """A training set, and the number of our workers."""
    if kind == "loader":
        return DataLoader(Pairs(numbered(10)), 2, shuffle=True), 0
    if kind == "loader with workers":
        return DataLoader(Stream(), 2, num_workers=2), 0
    if kind == "stateful":
        return Stateful(), 0
    if kind == "torchdata":
        stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
        return stateful.StatefulDataLoader(Pairs(numbered(10)), 2, shuffle=True), 0
    return Stream(), 2 if kind == "workers" else 0


KINDS = ["stream", "workers", "loader", "loader with workers", "stateful", "torchdata"]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # of torchdata
@pytest.mark.parametrize("step", [4, 5, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_gets_the_very_batches_of_an_uninterrupted_one(kind: str, step: int) -> None:
    def data() -> Data:
        torch.manual_seed(2)  # torchdata's loader draws when it is made
        train, workers = make(kind)
        made = read(train, 3, workers=workers, announce=lines.append)
        made.sample()
        return made

    lines: list[str] = []
    batches = itertools.chain.from_iterable(epochs_of(data()))
    whole = list(itertools.islice(batches, 12))
    lines.clear()
    interrupted = data()
    list(itertools.islice(itertools.chain.from_iterable(epochs_of(interrupted)), step))
    state = interrupted.state_dict()
    assert (state is not None) == (kind in ("stateful", "torchdata"))
    resumed = data()
    torch.manual_seed(5)
    resumed.resume(step, state)
    epoch, skip = divmod(step, 3)
    rest = [*resumed.training(epoch + 1, skip), *resumed.training(epoch + 2), *resumed.training(epoch + 3)]
    for (x, y), (x2, y2) in zip(rest, whole[step:], strict=False):
        assert torch.equal(x, x2) and torch.equal(y, y2)
    read_again = [line for line in lines if "were read again in" in line]
    assert len(read_again) == (state is None)


def epochs_of(data: Data) -> Iterator[Any]:
    return (data.training(epoch) for epoch in itertools.count(1))


def test_a_stateful_set_reads_no_sample_again_and_goes_on_from_an_older_state() -> None:
    data = read(Stateful(), 3)
    list(data.training(1))
    state = data.state_dict()
    again = Stateful()
    lines: list[str] = []
    resumed = read(again, 3, announce=lines.append)
    resumed.resume(3, state)
    assert labels(resumed.training(2))[0] == [6, 7] and again.read == 4 + 2
    assert not any("read again" in line for line in lines)
    lines.clear()
    older = read(Stateful(), 3, announce=lines.append)
    older.resume(4, state)
    assert labels(older.training(2, 1)) == [[8, 9], [0, 1]]
    assert lines[0].startswith("1 batches of the training set were read again in ")


def test_workers_share_a_stream_that_asks_which_worker_it_is_in() -> None:
    lines: list[str] = []
    data = read(Stream(), 6, workers=2, announce=lines.append)
    assert labels(data.training(1)) == [[0, 2], [1, 3], [4, 6], [5, 7], [8], [9]]
    assert not lines


def test_a_line_says_that_every_worker_reads_the_whole_set() -> None:
    class Same(Stream):
        def __iter__(self) -> Iterator[Any]:
            return ((torch.zeros(3), number) for number in range(10))

    lines: list[str] = []
    list(read(Same(), 4, workers=2, announce=lines.append).training(1))
    assert lines == [
        "two workers gave the same batch of the training set: each reads all of it; divide it among them "
        "(torch.utils.data.get_worker_info), or use one"
    ]


def test_the_number_of_the_pass_reaches_sets_and_samplers_that_shuffle_by_it() -> None:
    class Shuffled(Stream):
        epochs: ClassVar[list[int]] = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    list(read(Shuffled(4), 6).training(1))
    assert Shuffled.epochs == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"batch_size": 4},
            "batch-size is 4, and the task's own loader makes batches of 2; use --batch-size 2",
        ),
        (
            {"workers": 3},
            "loader-workers is 3, and the task has a loader of its own; leave it out, and set num_workers of "
            "that loader",
        ),
    ],
)
def test_settings_that_a_loader_of_the_task_has_itself_must_agree(settings: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        read(DataLoader(Pairs(numbered(6)), 2), **settings)
    assert str(error.value) == line


def test_steps_per_epoch_shorten_the_epochs_of_a_map_style_set() -> None:
    whole, short = read(numbered(10), 0), read(numbered(10), 3)
    assert (whole.steps_per_epoch, short.steps_per_epoch) == (5, 3)
    assert labels(short.training(2)) == labels(whole.training(2))[:3]
    with pytest.raises(
        UserError, match=r"^steps-per-epoch is 6, and the training set has 5 batches; lower it, or"
    ):
        read(numbered(10), 6)
