"""Data in batches, the same for every engine."""

import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from dni_async.errors import UserError
from launch.config.task import TaskConfig
from launch.job.data import Data, read
from launch.job.map_batches import MapBatches
from launch.job.samples import size
from tasks.contiguous import ContiguousBatches
from tests.support.fake_gpu import FakeGpu
from tests.support.numbered_data import Pairs, data, labels, numbered
from tests.support.tiny_task import Tiny


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3), torch.tensor(0)


@pytest.mark.parametrize(
    ("evaluations", "after"), [(1, {8}), (2, {4, 8}), (3, {3, 6, 8}), (8, {1, 2, 3, 4, 5, 6, 7, 8})]
)
def test_evaluations_are_equally_spaced_and_one_ends_the_epoch(evaluations, after):
    assert data(train=16).evaluation_steps(evaluations) == after


def test_seed_and_epoch_alone_decide_the_order():
    order = labels(data(seed=3).training(2))
    torch.manual_seed(99)
    other = data(seed=3)
    list(other.training(1))
    assert labels(other.training(2)) == order
    assert labels(data(seed=3, test=1).training(2)) == order


def test_another_epoch_or_seed_gives_another_order():
    orders = [labels(data(train=50, seed=seed).training(epoch)) for seed in (0, 1, 2) for epoch in (1, 2, 3)]
    assert len({str(order) for order in orders}) == 9


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, Pairs])
def test_every_sample_comes_once_per_epoch_shuffled_and_x_with_its_y(wrap):
    source = data(train=50, batch_size=8, wrap=wrap)
    for epoch in (1, 2):
        seen = []
        for x, y in source.training(epoch):
            assert torch.equal(x[:, 0], y.float())
            seen += y.tolist()
        assert seen != sorted(seen)
        assert sorted(seen) == list(range(50))


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, Pairs])
def test_the_last_batch_may_be_short(wrap):
    source = data(train=5, test=3, batch_size=2, wrap=wrap)
    assert [len(y) for _, y in source.training(1)] == [2, 2, 1]
    assert [len(y) for _, y in source.evaluation()] == [2, 1]


@pytest.mark.parametrize(("train", "steps"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_steps_of_an_epoch_count_the_short_batch(train, steps):
    source = data(train=train, batch_size=4)
    assert source.steps_per_epoch == steps == len(list(source.training(1)))


def test_a_map_style_data_set_is_evaluated_like_tensors():
    fast, slow = data(test=7), data(test=7, wrap=Pairs)
    for (x, y), (x2, y2) in zip(fast.evaluation(), slow.evaluation(), strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)
        assert (x.dtype, y.dtype) == (x2.dtype, y2.dtype)
    assert labels(fast.evaluation()) == [[100, 101], [102, 103], [104, 105], [106]]


def test_a_map_style_data_set_is_shuffled_by_seed_and_epoch():
    order = labels(data(train=50, wrap=Pairs).training(1))
    torch.manual_seed(99)
    assert labels(data(train=50, wrap=Pairs).training(1)) == order
    assert labels(data(train=50, wrap=Pairs).training(2)) != order


def test_the_sample_has_no_bad_values_though_the_data_have() -> None:
    x, y = torch.full((4, 3), float("nan")), torch.full((4,), float("inf"))
    sample = Data(TensorDataset(x, y), TensorDataset(x, y), 4, 0).sample()
    assert [tensor.tolist() for tensor in sample] == [[[0.0] * 3] * 4, [0.0] * 4]


def test_the_sample_is_a_training_batch():
    x, y = data(train=5, test=3, batch_size=2).sample()
    assert x.shape == (2, 3) and set(y.tolist()) <= set(range(5))


@pytest.mark.parametrize(("train", "test", "name"), [(0, 3, "training"), (5, 0, "test")])
def test_an_empty_set_is_refused(train, test, name):
    with pytest.raises(UserError, match=f"the {name} set is empty; check the task's data"):
        data(train=train, test=test)


def test_a_training_set_without_length_needs_the_steps_of_an_epoch():
    with pytest.raises(
        UserError, match=r"^the training set \(Endless\) has no length; give --steps-per-epoch$"
    ):
        Data(Endless(), numbered(3), 2, 0)


def test_without_a_generator_batches_come_in_order():
    assert labels(MapBatches(numbered(5), 2, seed=0).in_order()) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("dataset", ["tensors", "items"])
def test_the_parts_of_a_batch_are_the_batch(dataset):
    x, y = torch.arange(10.0), torch.arange(10)
    pairs = TensorDataset(x, y)
    if dataset == "items":
        pairs = [(x[i], y[i]) for i in range(10)]
    whole = Data(pairs, pairs, 7, 0)
    parts = [Data(pairs, pairs, 7, 0, (i, 4)) for i in range(4)]
    for read_from in (lambda data: data.training(1), lambda data: data.evaluation()):
        batches = [list(read_from(part)) for part in parts]
        assert [[len(y) for _, y in part] for part in batches] == [[2, 1], [2, 1], [2, 1], [1, 0]]
        for number, batch in enumerate(read_from(whole)):
            for column in (0, 1):
                assert torch.equal(torch.cat([part[number][column] for part in batches]), batch[column])
    assert [whole.rows(step) for step in range(4)] == [7, 3, 7, 3]


def test_batches_before_the_start_are_not_read():
    read = []

    class Watched(Pairs):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    source = data(train=9, wrap=Watched)
    list(source.training(1, start=3))
    assert len(read) == 9 - 3 * 2


def test_a_process_has_the_same_rows_of_a_sequence_in_every_batch():
    pieces = ContiguousBatches(torch.arange(9), torch.arange(9))
    parts = [Data(pieces, pieces, 2, 0, (i, 2)) for i in range(2)]
    assert [labels(part.training(1)) for part in parts] == [[[0], [1], [2], [3]], [[4], [5], [6], [7]]]


def test_evaluations_are_on_the_validation_set_where_there_is_one():
    source = Data(numbered(5), numbered(3, 100), 2, 0, validation=numbered(5, 200))
    assert labels(source.evaluation()) == [[200, 201], [202, 203], [204]]
    assert labels(source.testing()) == [[100, 101], [102]]
    assert (source.evaluation_batches, size(source.evaluated)) == (3, 5)
    without = data()
    assert labels(without.evaluation()) == labels(without.testing()) == [[100, 101], [102]]


def test_the_validation_set_is_read_only_with_patience():
    task = Tiny(validation=7)
    assert read(TaskConfig(), task).validation is None
    assert size(read(TaskConfig(), task, patience=1).validation) == 7


def test_patience_without_a_validation_set_is_refused():
    with pytest.raises(UserError) as error:
        read(TaskConfig(), Tiny(), patience=3)
    assert str(error.value) == (
        "patience is 3, and task Tiny has no validation set to end early by; leave it out, or hold samples "
        "out (--task-args validation=N; in a task of your own write `validation`)"
    )


def test_an_empty_validation_set_is_refused():
    with pytest.raises(UserError, match="the validation set is empty; check the task's data"):
        Data(numbered(5), numbered(3), 2, 0, validation=numbered(0))


def test_a_batch_is_split_into_inputs_and_targets_as_the_task_says():
    x, y, z = torch.arange(10.0).reshape(5, 2), torch.arange(5), torch.arange(5) * 2

    def split(samples):
        return {"x": samples[0], "z": samples[1]}, samples[2]

    read = Data(TensorDataset(x, z, y), TensorDataset(x, z, y), 2, 0, split=split)
    for inputs, targets in [*read.training(1), *read.evaluation(), *read.testing(), read.sample()]:
        assert torch.equal(inputs["x"], x[targets]) and torch.equal(inputs["z"], z[targets])
    parts = [
        Data(TensorDataset(x, z, y), TensorDataset(x, z, y), 4, 0, (i, 3), split=split) for i in range(3)
    ]
    assert [[len(targets) for _, targets in part.evaluation()] for part in parts] == [[2, 1], [1, 0], [1, 0]]


def test_samples_may_be_dicts():
    samples = [{"ids": torch.arange(3) + i, "labels": i} for i in range(5)]
    read = Data(samples, samples, 2, 0, split=Tiny().batch)
    for inputs, targets in read.training(1):
        assert list(inputs) == ["ids"] and torch.equal(inputs["ids"][:, 0], targets)
    assert [len(part) for part in read.sample()[0].values()] == [2]


def test_a_task_must_return_inputs_and_targets():
    pairs = TensorDataset(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(UserError, match=r"batch of the task returned a tensor; return \(inputs, targets\)"):
        next(Data(pairs, pairs, 2, 0, split=lambda samples: samples[0]).training(1))


class TestOnAGpu:
    def test_batches_are_the_same_and_made_there(self) -> None:
        on_host, placed, gpu = data(train=16, test=5), data(train=16, test=5), FakeGpu()
        gpu.device = torch.device("cpu")
        placed.place_on(gpu)
        for epoch in (1, 2):
            assert labels(placed.training(epoch)) == labels(on_host.training(epoch))
        assert labels(placed.evaluation()) == labels(on_host.evaluation())
        assert labels(placed.training(1, 3)) == labels(on_host.training(1, 3))

    def test_only_the_sample_stays_on_the_host(self) -> None:
        placed, gpu = data(train=16, test=5), FakeGpu()
        gpu.device = torch.device("meta")
        placed.place_on(gpu)
        batches = [*placed.training(1), *placed.evaluation()]
        assert {tensor.device.type for batch in batches for tensor in batch} == {"meta"}
        assert {tensor.device.type for tensor in placed.sample()} == {"cpu"}

    def test_sets_that_are_large_beside_its_memory_stay_on_the_host(self) -> None:
        placed, gpu = data(train=16, test=5), FakeGpu()
        gpu.device, gpu.free = torch.device("meta"), 100
        placed.place_on(gpu)
        assert {tensor.device.type for tensor in next(placed.training(1))} == {"cpu"}
