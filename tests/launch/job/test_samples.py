"""Data sets and samples that cannot be trained on are refused in one line."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dni_async.errors import UserError
from launch.config.task import TaskConfig
from launch.job.data import Data, read
from launch.job.samples import check_set, is_loader, is_stream, known_size, stack
from tests.support.tiny_task import Tiny

X = torch.ones(2)
WANTED = "give tensors, arrays or numbers, in tuples, lists or dicts of the same form and shapes"


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter([(X, 0)] * 4)


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        (5, "data set int cannot be read; give a map-style or an iterable data set, or a DataLoader"),
        ([], "the training set is empty; check the task's data"),
    ],
)
def test_what_is_no_set_or_empty_is_refused(dataset: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        check_set("training", dataset)
    assert str(error.value) == line


def test_sets_are_map_style_iterable_or_loaders() -> None:
    loader = DataLoader([(X, 0)] * 4, batch_size=2)
    assert [is_stream(each) for each in (Stream(), iter([X]), loader, [(X, 0)], Odd())] == [True] * 3 + [
        False
    ] * 2
    assert [is_loader(each) for each in (Stream(), loader, [(X, 0)])] == [False, True, False]
    assert [known_size(each) for each in (Stream(), loader, [(X, 0)])] == [None, None, 1]


def test_the_collate_of_a_task_makes_the_batch() -> None:
    texts = ["a", "bcd"]
    assert stack(texts, lambda samples: torch.tensor([len(text) for text in samples])).tolist() == [1, 3]
    with pytest.raises(
        UserError, match=r"^collate of the task returned \{texts: \['a', 'bcd'\]\}; return a tree of"
    ):
        stack(texts, lambda samples: {"texts": samples})
    with pytest.raises(KeyError):
        stack(texts, lambda samples: {}["dim"])


@pytest.mark.parametrize(
    ("sample", "line"),
    [
        ({"x": X, "mask": X}, f"a sample is {{x: tensor, mask: tensor}}; {WANTED}"),
        ((X, 1, 2), f"a sample is (tensor, 1, 2); {WANTED}"),
        (X, f"a sample is a tensor; {WANTED}"),
        ((X, {"box": X}), f"a sample is (tensor, {{box: tensor}}); {WANTED}"),
        ((X, "cat"), f"a sample is (tensor, 'cat'); {WANTED}"),
        ((X, None), f"a sample is (tensor, None); {WANTED}"),
        (
            (torch.ones(3), 1),
            "samples do not make a batch (stack expects each tensor to be equal size, but got [2] at entry 0 "
            f"and [3] at entry 1); pad those of different lengths in collate() of the task; {WANTED}",
        ),
    ],
)
def test_samples_that_make_no_batch_of_tensors_are_refused(sample: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        stack([(X, 0), sample])
    assert str(error.value) == line


def test_samples_of_texts_are_refused() -> None:
    with pytest.raises(UserError, match=r"^a sample is \{ids: tensor, text: 'a'\}; give tensors"):
        stack([{"ids": X, "text": "a"}, {"ids": X, "text": "b"}])


def test_samples_may_be_dicts_and_nested() -> None:
    batch = stack([{"ids": X, "more": (1.5, [X.numpy()])}] * 3)
    assert torch.equal(batch["ids"], torch.ones(3, 2)) and batch["more"][0].tolist() == [1.5] * 3
    assert torch.equal(batch["more"][1][0], torch.ones(3, 2))
    assert torch.equal(stack([X, X, X]), torch.ones(3, 2))


def test_a_list_of_numbers_in_a_sample_is_a_tensor() -> None:
    """As the token ids of Hugging Face's data sets, which torch would take apart."""
    batch = stack([{"ids": [5, 9, 2], "box": [[0.5, 1.0]], "labels": 1}] * 2)
    assert torch.equal(batch["ids"], torch.tensor([[5, 9, 2]] * 2)) and batch["labels"].tolist() == [1, 1]
    assert torch.equal(batch["box"], torch.tensor([[[0.5, 1.0]]] * 2))
    x, y = stack([([1.5, 2.5], 0), ([3.5, 4.5], 1)])
    assert torch.equal(x, torch.tensor([[1.5, 2.5], [3.5, 4.5]])) and y.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"pad those of different lengths in collate\(\) of the task"):
        stack([{"ids": [5, 9]}, {"ids": [5]}])
    for odd in ([[1, 2], [3]], [{}], [[1], 2]):
        with pytest.raises(UserError, match=r"; give tensors, arrays or numbers"):
            stack([{"ids": odd, "text": None}] * 2)


def test_samples_may_be_tuples_lists_arrays_and_numbers() -> None:
    named = namedtuple("named", "image label")
    x, y = stack([(X, 0), [X, 1], (X.numpy(), numpy.int64(2)), named(X, torch.tensor(3))][:2])
    assert torch.equal(x, torch.ones(2, 2)) and y.tolist() == [0, 1]
    x, y = stack([(X.numpy(), numpy.int64(2))])
    assert torch.equal(x, torch.ones(1, 2)) and y.tolist() == [2]
    x, y = stack([named(X, torch.tensor(3))])
    assert torch.equal(x, torch.ones(1, 2)) and y.tolist() == [3]


class Odd(Dataset):
    """Three pairs, and a sample that is none."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        return (X, i) if i < 3 else {"x": X}


def test_an_odd_sample_is_found_when_its_batch_is_read() -> None:
    data = Data(Odd(), Odd(), 2, 0)
    batches = data.testing()
    assert next(batches)[1].tolist() == [0, 1]
    with pytest.raises(UserError, match=r"a sample is \{x: tensor\}"):
        next(batches)


class OneSet(Tiny):
    def data(self, root: Any = None) -> Any:
        return super().data()[0]


def test_a_task_must_return_two_sets() -> None:
    with pytest.raises(UserError) as error:
        read(TaskConfig(), OneSet())
    assert str(error.value) == "data() of task OneSet must return a training set and a test set"
