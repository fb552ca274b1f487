"""The stream of messages that stage 0 works through."""

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from dni_async.errors import UserError
from dni_async.messages import Activation
from launch.source import Data, Position, batches, size, stream
from tasks.pieces import SideBySide

CPU = torch.device("cpu")


def numbered(count, first=0):
    """Samples that tell their number: x is (3,) of it, y it."""
    y = torch.arange(first, first + count)
    return TensorDataset(y[:, None].expand(count, 3).float().contiguous(), y)


class Pairs(Dataset):
    """The same samples, handed out one by one."""

    def __init__(self, tensors):
        self.tensors_ = tensors.tensors

    def __len__(self):
        return len(self.tensors_[0])

    def __getitem__(self, index):
        return tuple(tensor[index] for tensor in self.tensors_)


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3), torch.tensor(0)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def data(train=5, test=3, batch_size=2, seed=0, wrap=lambda dataset: dataset):
    return Data(wrap(numbered(train)), wrap(numbered(test, 100)), batch_size, seed)


def show(message):
    if isinstance(message, Activation):
        return f"{'A' if message.train else 'E'}{message.step}"
    return f"{message.kind.name}({message.step},{message.epoch})"


def labels(pairs):
    return [y.tolist() for _, y in pairs]


def test_messages_come_in_the_order_of_the_diagram():
    messages = [show(m) for m in stream(data(), 2, CPU, lambda: 0.0)]
    assert messages == [
        *("A0", "A1", "A2", "E0", "E1", "EPOCH(3,1)"),
        *("A3", "A4", "A5", "E0", "E1", "EPOCH(6,2)"),
        "STOP(6,2)",
    ]


def test_a_report_is_asked_for_when_more_than_a_second_has_passed():
    clock, messages = Clock(), []
    for message in stream(data(train=12), 1, CPU, clock):
        messages.append(show(message))
        clock.now += 0.5 if messages[-1] in ("A0", "A1", "A2", "A3", "A4") else 0.0
    # seconds     0.5   1.0   1.5                   2.0   2.5
    assert messages == [
        *("A0", "A1", "A2", "REPORT(3,1)", "A3", "A4"),
        *("A5", "E0", "E1", "EPOCH(6,1)", "STOP(6,1)"),
    ]


def test_reports_go_on_through_the_epochs():
    clock, messages = Clock(), []
    for message in stream(data(train=4), 2, CPU, clock):
        messages.append(show(message))
        clock.now += 0.6 if messages[-1].startswith("A") else 0.0
    assert [m for m in messages if m.startswith("REPORT")] == ["REPORT(2,1)", "REPORT(4,2)"]


def test_evaluations_within_an_epoch_have_a_mark_of_their_own():
    messages = [show(m) for m in stream(data(train=9), 2, CPU, lambda: 0.0, evaluations=2)]
    assert messages == [
        *("A0", "A1", "A2", "E0", "E1", "EVALUATION(3,1)", "A3", "A4", "E0", "E1", "EPOCH(5,1)"),
        *("A5", "A6", "A7", "E0", "E1", "EVALUATION(8,2)", "A8", "A9", "E0", "E1", "EPOCH(10,2)"),
        "STOP(10,2)",
    ]


@pytest.mark.parametrize(
    ("evaluations", "after"), [(1, {8}), (2, {4, 8}), (3, {3, 6, 8}), (8, {1, 2, 3, 4, 5, 6, 7, 8})]
)
def test_evaluations_are_equally_spaced_and_one_ends_the_epoch(evaluations, after):
    assert data(train=16).evaluation_steps(evaluations) == after


@pytest.mark.parametrize(
    ("enough_after", "end"),
    [
        ("A0", ["A0", "STOP(1,1)"]),
        ("E0", ["E0", "STOP(3,1)"]),
        ("EPOCH(3,1)", ["EPOCH(3,1)", "STOP(3,1)"]),
        ("A4", ["A4", "STOP(5,2)"]),
    ],
)
def test_when_it_is_enough_the_next_message_is_stop(enough_after, end):
    sent = []
    for message in stream(data(), 3, CPU, lambda: 0.0, enough=lambda: enough_after in sent):
        sent.append(show(message))
    assert sent[-2:] == end


def test_activations_carry_the_batches_of_their_epoch():
    source = data()
    messages = [m for m in stream(source, 2, CPU, lambda: 0.0) if isinstance(m, Activation)]
    expected = [*source.training(1), *source.evaluation(), *source.training(2), *source.evaluation()]
    assert len(messages) == len(expected)
    for message, (x, y) in zip(messages, expected, strict=True):
        assert torch.equal(message.h, x) and torch.equal(message.y, y)
        assert message.version == 0


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


def test_the_order_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(stream(data(), 2, CPU, lambda: 0.0))
    assert torch.equal(torch.get_rng_state(), before)


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


def test_a_data_set_without_length_is_refused():
    with pytest.raises(UserError, match="data set Endless has no length; give a map-style data set"):
        Data(Endless(), numbered(3), 2, 0)
    with pytest.raises(UserError, match="Endless has no length"):
        size(Endless())


def test_batches_in_order_without_a_generator():
    assert labels(batches(numbered(5), 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("dataset", ["tensors", "items"])
def test_the_parts_of_a_batch_are_the_batch(dataset):
    x, y = torch.arange(10.0), torch.arange(10)
    pairs = TensorDataset(x, y)
    if dataset == "items":
        pairs = [(x[i], y[i]) for i in range(10)]
    whole = Data(pairs, pairs, 7, 0)
    parts = [Data(pairs, pairs, 7, 0, (i, 4)) for i in range(4)]
    for read in (lambda data: data.training(1), lambda data: data.evaluation()):
        batches = [list(read(part)) for part in parts]
        assert [[len(y) for _, y in part] for part in batches] == [[2, 1], [2, 1], [2, 1], [1, 0]]
        for number, batch in enumerate(read(whole)):
            for column in (0, 1):
                assert torch.equal(torch.cat([part[number][column] for part in batches]), batch[column])
    assert [whole.rows(step) for step in range(4)] == [7, 3, 7, 3]


@pytest.mark.parametrize(
    ("every", "marks"),
    [
        (None, []),
        (0, ["CHECKPOINT(5,1)", "CHECKPOINT(10,2)"]),
        (3, [f"CHECKPOINT({step},{epoch})" for step, epoch in ((3, 1), (5, 1), (6, 2), (9, 2), (10, 2))]),
        (5, ["CHECKPOINT(5,1)", "CHECKPOINT(10,2)"]),
    ],
)
def test_checkpoints_are_due_every_so_many_steps_and_at_the_end_of_epochs(every, marks):
    messages = [show(m) for m in stream(data(train=9), 2, CPU, lambda: 0.0, checkpoint_every=every)]
    assert [m for m in messages if m.startswith("CHECKPOINT")] == marks
    assert messages[-1] == "STOP(10,2)"


def test_a_checkpoint_comes_behind_an_evaluation_that_is_due_at_the_same_step():
    messages = [
        show(m) for m in stream(data(train=7), 1, CPU, lambda: 0.0, evaluations=2, checkpoint_every=2)
    ]
    assert messages == [
        *("A0", "A1", "E0", "E1", "EVALUATION(2,1)", "CHECKPOINT(2,1)"),
        *("A2", "A3", "E0", "E1", "EPOCH(4,1)", "CHECKPOINT(4,1)", "STOP(4,1)"),
    ]


@pytest.mark.parametrize(
    ("enough_after", "end"),
    [
        ("A0", ["A0", "CHECKPOINT(1,1)", "STOP(1,1)"]),
        ("CHECKPOINT(3,1)", ["EPOCH(3,1)", "CHECKPOINT(3,1)", "STOP(3,1)"]),
    ],
)
def test_the_last_checkpoint_is_the_end_of_the_run(enough_after, end):
    sent = []
    messages = stream(data(), 3, CPU, lambda: 0.0, checkpoint_every=0, enough=lambda: enough_after in sent)
    for message in messages:
        sent.append(show(message))
    assert sent[-3:] == end


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, Pairs])
@pytest.mark.parametrize("start", [0, 2, 4, 5, 9, 10])
def test_a_resumed_run_goes_on_with_the_very_next_batch(start, wrap):
    source = data(train=9, wrap=wrap)

    def messages(start):
        return [
            m for m in stream(source, 2, CPU, lambda: 0.0, evaluations=2, checkpoint_every=2, start=start)
        ]

    whole, rest = messages(0), messages(start)
    assert [show(m) for m in rest] == [show(m) for m in whole][len(whole) - len(rest) :]
    trained = [m.step for m in rest if isinstance(m, Activation) and m.train]
    assert trained == list(range(start, 10))
    for message, again in zip(whole[len(whole) - len(rest) :], rest, strict=True):
        if isinstance(message, Activation):
            assert torch.equal(message.h, again.h) and torch.equal(message.y, again.y)


def test_batches_before_the_start_are_not_read():
    read = []

    class Watched(Pairs):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    source = data(train=9, wrap=Watched)
    list(source.training(1, start=3))
    assert len(read) == 9 - 3 * 2


def test_a_run_that_is_over_has_nothing_left_to_do():
    messages = stream(data(), 1, CPU, lambda: 0.0, checkpoint_every=1, start=3)
    assert [show(m) for m in messages] == ["STOP(3,1)"]


def test_reading_a_data_set_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(stream(data(wrap=Pairs), 2, CPU, lambda: 0.0))
    assert torch.equal(torch.get_rng_state(), before)


def test_pieces_of_a_sequence_lie_side_by_side_in_every_epoch():
    x, one_row = torch.arange(9), torch.arange(3)
    source = Data(SideBySide(x, x), SideBySide(one_row, one_row, rows=1), batch_size=2, seed=0)
    assert labels(source.training(1)) == labels(source.training(2)) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert labels(source.evaluation()) == [[0], [1], [2]]
    assert source.steps_per_epoch == 4 and [source.rows(step) for step in range(5)] == [2] * 5
    messages = [show(m) for m in stream(source, 1, CPU, lambda: 0.0, evaluations=2)]
    evaluation = ["E0", "E1", "E2"]
    assert messages == [
        *("A0", "A1", *evaluation, "EVALUATION(2,1)"),
        *("A2", "A3", *evaluation, "EPOCH(4,1)", "STOP(4,1)"),
    ]


def test_a_process_has_the_same_rows_of_a_sequence_in_every_batch():
    pieces = SideBySide(torch.arange(9), torch.arange(9))
    parts = [Data(pieces, pieces, 2, 0, (i, 2)) for i in range(2)]
    assert [labels(part.training(1)) for part in parts] == [[[0], [1], [2], [3]], [[4], [5], [6], [7]]]


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, Pairs])
@pytest.mark.parametrize("every", [None, 2])
def test_from_any_message_on_a_stream_goes_on_with_the_very_next(every, wrap):
    """However many of the messages behind a batch have gone out."""
    source = data(train=9, test=5, wrap=wrap)

    def messages(position):
        settings = {"evaluations": 2, "checkpoint_every": every}
        going_on = {"start": position.step, "behind": position.behind, "kept": position.kept}
        return position.follow(stream(source, 2, CPU, lambda: 0.0, **settings, **going_on))

    whole = [show(message) for message in messages(Position())]
    for handled in range(1, len(whole)):
        position = Position()
        rest = messages(position)
        for _ in range(handled):
            next(rest)
        again = [show(message) for message in messages(Position(**position.state()))]
        assert again == whole[handled:], handled


def test_a_position_does_not_count_reports():
    """They depend on the clock, and nobody misses one."""
    clock, position = Clock(), Position()
    messages = position.follow(stream(data(train=3), 1, CPU, clock))
    next(messages)
    clock.now = 2.0
    assert show(next(messages)) == "REPORT(1,1)"
    assert (position.step, position.behind) == (1, 0)
