"""The stream of messages that stage 0 works through."""

import itertools

import pytest
import torch

from dni_async.messages import Activation
from launch.job.data import Data
from launch.job.message_stream import StreamPosition, stream
from tasks.contiguous import ContiguousBatches
from tests.support.numbered_data import Pairs, data, labels, numbered

CPU = torch.device("cpu")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def show(message):
    if isinstance(message, Activation):
        return f"{'A' if message.train else 'E'}{message.step}"
    return f"{message.kind.name}({message.step},{message.epoch})"


def test_messages_come_in_the_order_of_the_diagram():
    messages = [show(m) for m in stream(data(), 2, CPU, lambda: 0.0)]
    assert messages == [
        *("A0", "A1", "A2", "E0", "E1", "EPOCH(3,1)"),
        *("A3", "A4", "A5", "E0", "E1", "EPOCH(6,2)"),
        "STOP(6,2)",
    ]


def test_a_report_is_requested_after_a_fifth_of_a_second():
    clock, messages = Clock(), []
    for message in stream(data(train=12), 1, CPU, clock):
        messages.append(show(message))
        clock.now += 0.1 if messages[-1] in ("A0", "A1", "A2", "A3", "A4") else 0.0
    # seconds     0.1   0.2   0.3                   0.4   0.5
    assert messages == [
        *("A0", "A1", "A2", "REPORT(3,1)", "A3", "A4"),
        *("A5", "E0", "E1", "EPOCH(6,1)", "STOP(6,1)"),
    ]


def test_reports_of_a_long_run_are_a_second_apart():
    clock, reported = Clock(), []
    for message in stream(data(train=1200), 1, CPU, clock):
        clock.now += 0.3 if isinstance(message, Activation) else 0.0
        if show(message).startswith("REPORT"):
            reported.append(clock.now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(reported) if earlier > 50]
    assert len(gaps) > 50 and 1.0 < min(gaps) <= max(gaps) < 1.3


def test_reports_are_requested_in_every_epoch():
    clock, messages = Clock(), []
    for message in stream(data(train=4), 2, CPU, clock):
        messages.append(show(message))
        clock.now += 0.15 if messages[-1].startswith("A") else 0.0
    assert [m for m in messages if m.startswith("REPORT")] == ["REPORT(2,1)", "REPORT(4,2)"]


def test_an_evaluation_within_an_epoch_has_a_marker_of_its_own():
    messages = [show(m) for m in stream(data(train=9), 2, CPU, lambda: 0.0, evaluations=2)]
    assert messages == [
        *("A0", "A1", "A2", "E0", "E1", "EVALUATION(3,1)", "A3", "A4", "E0", "E1", "EPOCH(5,1)"),
        *("A5", "A6", "A7", "E0", "E1", "EVALUATION(8,2)", "A8", "A9", "E0", "E1", "EPOCH(10,2)"),
        "STOP(10,2)",
    ]


@pytest.mark.parametrize(
    ("enough_after", "end"),
    [
        ("A0", ["A0", "STOP(1,1)"]),
        ("E0", ["E0", "STOP(3,1)"]),
        ("EPOCH(3,1)", ["EPOCH(3,1)", "STOP(3,1)"]),
        ("A4", ["A4", "STOP(5,2)"]),
    ],
)
def test_after_the_target_accuracy_the_next_message_is_stop(enough_after, end):
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


def test_the_order_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(stream(data(), 2, CPU, lambda: 0.0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("every", "markers"),
    [
        (None, []),
        (0, ["CHECKPOINT(5,1)", "CHECKPOINT(10,2)"]),
        (3, [f"CHECKPOINT({step},{epoch})" for step, epoch in ((3, 1), (5, 1), (6, 2), (9, 2), (10, 2))]),
        (5, ["CHECKPOINT(5,1)", "CHECKPOINT(10,2)"]),
    ],
)
def test_checkpoints_are_due_every_so_many_steps_and_at_the_end_of_epochs(every, markers):
    messages = [show(m) for m in stream(data(train=9), 2, CPU, lambda: 0.0, checkpoint_every=every)]
    assert [m for m in messages if m.startswith("CHECKPOINT")] == markers
    assert messages[-1] == "STOP(10,2)"


def test_a_checkpoint_follows_an_evaluation_of_the_same_step():
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
def test_a_resumed_stream_continues_with_the_very_next_batch(start, wrap):
    source = data(train=9, wrap=wrap)

    def messages(start):
        return [
            m
            for m in stream(
                source, 2, CPU, lambda: 0.0, evaluations=2, checkpoint_every=2, position=StreamPosition(start)
            )
        ]

    whole, rest = messages(0), messages(start)
    assert [show(m) for m in rest] == [show(m) for m in whole][len(whole) - len(rest) :]
    trained = [m.step for m in rest if isinstance(m, Activation) and m.train]
    assert trained == list(range(start, 10))
    for message, again in zip(whole[len(whole) - len(rest) :], rest, strict=True):
        if isinstance(message, Activation):
            assert torch.equal(message.h, again.h) and torch.equal(message.y, again.y)


def test_the_stream_of_a_finished_run_holds_no_batch():
    messages = stream(data(), 1, CPU, lambda: 0.0, checkpoint_every=1, position=StreamPosition(3))
    assert [show(m) for m in messages] == ["STOP(3,1)"]


def test_reading_a_data_set_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(stream(data(wrap=Pairs), 2, CPU, lambda: 0.0))
    assert torch.equal(torch.get_rng_state(), before)


def test_contiguous_batches_have_the_same_order_in_every_epoch():
    x, one_row = torch.arange(9), torch.arange(3)
    source = Data(ContiguousBatches(x, x), ContiguousBatches(one_row, one_row, rows=1), batch_size=2, seed=0)
    assert labels(source.training(1)) == labels(source.training(2)) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert labels(source.evaluation()) == [[0], [1], [2]]
    assert source.steps_per_epoch == 4 and [source.rows(step) for step in range(5)] == [2] * 5
    messages = [show(m) for m in stream(source, 1, CPU, lambda: 0.0, evaluations=2)]
    evaluation = ["E0", "E1", "E2"]
    assert messages == [
        *("A0", "A1", *evaluation, "EVALUATION(2,1)"),
        *("A2", "A3", *evaluation, "EPOCH(4,1)", "STOP(4,1)"),
    ]


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, Pairs])
@pytest.mark.parametrize("every", [None, 2])
def test_a_stream_can_continue_after_any_of_its_messages(every, wrap):
    """However many of the messages behind a batch have gone out."""
    source = data(train=9, test=5, wrap=wrap)

    def messages(position):
        settings = {"evaluations": 2, "checkpoint_every": every}
        return stream(source, 2, CPU, lambda: 0.0, position=position, **settings)

    whole = [show(message) for message in messages(StreamPosition())]
    for handled in range(1, len(whole)):
        position = StreamPosition()
        rest = messages(position)
        for _ in range(handled):
            next(rest)
        again = [show(message) for message in messages(StreamPosition(**position.state_dict()))]
        assert again == whole[handled:], handled


def test_a_position_does_not_count_reports():
    """They depend on the clock, and nobody misses one."""
    clock, position = Clock(), StreamPosition()
    messages = stream(data(train=3), 1, CPU, clock, position=position)
    next(messages)
    clock.now = 2.0
    assert show(next(messages)) == "REPORT(1,1)"
    assert (position.step, position.sent_after) == (1, 0)


def test_a_step_counts_as_done_when_the_next_message_is_asked_for():
    done = []
    for message in stream(data(), 1, CPU, lambda: 0.0, on_step=done.append):
        if isinstance(message, Activation) and message.train:
            assert done == list(range(1, message.step + 1))
    assert done == [1, 2, 3]


def data_with_validation():
    return Data(numbered(5), numbered(3, 100), 2, 0, validation=numbered(5, 200))


def test_with_a_validation_set_evaluations_use_it_and_the_test_comes_last():
    messages = list(stream(data_with_validation(), 2, CPU, lambda: 0.0, checkpoint_every=0))
    assert [show(m) for m in messages] == [
        *("A0", "A1", "A2", "E0", "E1", "E2", "EPOCH(3,1)", "CHECKPOINT(3,1)"),
        *("A3", "A4", "A5", "E0", "E1", "E2", "EPOCH(6,2)", "CHECKPOINT(6,2)"),
        *("RESTORE(6,2)", "E0", "E1", "STOP(6,2)"),
    ]
    evaluated = [m.y.tolist() for m in messages if isinstance(m, Activation) and not m.train]
    validation = [[200, 201], [202, 203], [204]]
    assert evaluated == [*validation, *validation, [100, 101], [102]]


@pytest.mark.parametrize(
    ("enough_after", "end"),
    [
        ("A4", ["A4", "CHECKPOINT(5,2)", "RESTORE(5,2)", "E0", "E1", "STOP(5,2)"]),
        ("E1", ["E1", "CHECKPOINT(3,1)", "RESTORE(3,1)", "E0", "E1", "STOP(3,1)"]),
        ("CHECKPOINT(3,1)", ["EPOCH(3,1)", "CHECKPOINT(3,1)", "RESTORE(3,1)", "E0", "E1", "STOP(3,1)"]),
    ],
)
def test_after_patience_has_run_out_the_best_weights_are_tested_within_the_epoch(enough_after, end):
    source, sent = data_with_validation(), []
    messages = stream(source, 3, CPU, lambda: 0.0, checkpoint_every=0, enough=lambda: enough_after in sent)
    for message in messages:
        sent.append(show(message))
    assert sent[-6:] == end


def test_a_finished_run_with_validation_is_only_tested():
    messages = stream(
        data_with_validation(), 1, CPU, lambda: 0.0, checkpoint_every=1, position=StreamPosition(3)
    )
    assert [show(m) for m in messages] == ["RESTORE(3,1)", "E0", "E1", "STOP(3,1)"]
