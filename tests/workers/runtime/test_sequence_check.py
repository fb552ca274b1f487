"""Every message in its turn, or an error that says what happened to which."""

from __future__ import annotations

import json

import pytest
import torch

from dni_async.errors import StageError
from dni_async.messages import Activation, Marker, MarkerKind, Message, TargetGradient
from dni_async.rules import FrozenRule
from dni_async.stage.stage import Stage
from tests.support.stages import batches, numbered, pipeline
from workers.runtime.sequence_check import SequenceCheck


def target(step: int) -> TargetGradient:
    return TargetGradient(step, 0, torch.zeros(4, 1))


def mark(kind: MarkerKind, step: int = 0, returning: bool = False) -> Marker:
    return Marker(kind, step, 0, returning)


def handled(messages: list[Message], stage: Stage | None = None) -> None:
    """Check each message, and count it as the stage would."""
    stage = stage or pipeline()[0]
    sequence_check = SequenceCheck(stage)
    for message in messages:
        sequence_check.check(message)
        stage.steps += isinstance(message, Activation) and message.train
        stage.targets_received += isinstance(message, TargetGradient)


def a_run() -> list[Message]:
    """Two epochs down, the test in the middle of an evaluation, and what comes back."""
    down: list[Message] = []
    for kind in (MarkerKind.EVALUATION, MarkerKind.EPOCH):
        down += [
            *batches([4] * 2),
            mark(MarkerKind.REPORT),
            mark(MarkerKind.REPORT),
            mark(MarkerKind.CHECKPOINT),
        ]
        down += [*batches([4] * 3, train=False), mark(kind)]
    back = [target(i) for i in range(4)]
    back[2:2] = [mark(MarkerKind.EVALUATION, 2, True)]
    end = [*batches([4], train=False), mark(MarkerKind.RESTORE), *batches([4] * 2, train=False)]
    back += [mark(kind, 4, True) for kind in (MarkerKind.RESTORE, MarkerKind.STOP)]
    return [*numbered([*down, *end, mark(MarkerKind.STOP)]), *back]


def test_a_run_in_order_is_fine() -> None:
    handled(a_run())


def test_a_resumed_run_in_order_is_fine() -> None:
    stage = pipeline()[0]
    stage.steps = stage.targets_received = 7
    handled([Activation(7, 0, torch.zeros(1), torch.zeros(1)), target(7), mark(MarkerKind.STOP, 8)], stage)


def name(message: Message) -> str:
    if isinstance(message, Marker):
        return message.kind.name
    return "T" if isinstance(message, TargetGradient) else "A" if message.train else "E"


IN_RUN = [(i, name(message)) for i, message in enumerate(a_run()) if name(message) != "REPORT"]


DUE = "was due: that one got lost or was overtaken"
LOST = [
    ("A", 0, f"the activation of step 1 came where that of step 0 {DUE}"),
    ("A", 1, "marker REPORT of step 2 came after 1 batches: some got lost"),
    ("A", 2, f"the activation of step 3 came where that of step 2 {DUE}"),
    ("E", 0, f"the evaluation batch of step 1 came where that of step 0 {DUE}"),
    (
        "EVALUATION",
        2,
        "the evaluation batch of step 0 came where that of step 3 was due: it came twice or late",
    ),
    ("T", 0, f"the target of step 1 came where that of step 0 {DUE}"),
    ("T", 1, "marker EVALUATION of step 2 came back after 1 targets: some got lost"),
    ("T", 3, "marker RESTORE of step 4 came back after 3 targets: some got lost"),
]


@pytest.mark.parametrize(("kind", "step", "words"), LOST)
def test_a_lost_message_is_detected_at_the_next_message(kind: str, step: int, words: str) -> None:
    """But the last batch of an evaluation, whose result is then of too few, and the last marker, which is
    waited for until the deadline."""
    messages = a_run()
    del messages[next(i for i, m in enumerate(messages) if name(m) == kind and m.step == step)]
    with pytest.raises(StageError) as error:
        handled(messages)
    assert str(error.value) == words


@pytest.mark.parametrize(("which", "name"), IN_RUN, ids=str)
def test_a_repeated_message_is_detected_at_once(which: int, name: str) -> None:
    messages = a_run()
    messages.insert(which, messages[which])
    with pytest.raises(StageError, match=r"came twice( or late)?$"):
        handled(messages[: which + 2])


def test_the_error_says_which_came_and_which_was_due() -> None:
    stage = pipeline()[0]
    with pytest.raises(StageError) as error:
        SequenceCheck(stage).check(target(3))
    assert str(error.value) == (
        "the target of step 3 came where that of step 0 was due: that one got lost or was overtaken"
    )
    with pytest.raises(StageError, match=r"^marker STOP of step 9 came after 0 batches: some got lost$"):
        SequenceCheck(stage).check(mark(MarkerKind.STOP, 9))
    with pytest.raises(StageError, match=r"^marker STOP of step 9 came back after 0 targets: some got lost$"):
        SequenceCheck(stage).check(mark(MarkerKind.STOP, 9, returning=True))


def test_a_rule_without_targets_misses_none() -> None:
    handled(
        [*batches([4]), mark(MarkerKind.STOP, 1), mark(MarkerKind.STOP, 1, True)],
        pipeline(rule=FrozenRule)[0],
    )


def test_the_sequence_check_continues_in_another_process() -> None:
    stage = pipeline()[1]
    first, second = SequenceCheck(stage), SequenceCheck(stage)
    tests = batches([4] * 3, train=False)
    for message in (mark(MarkerKind.CHECKPOINT), tests[0]):
        first.check(message)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.check(tests[1])
    with pytest.raises(StageError, match="marker CHECKPOINT of step 0 came twice"):
        second.check(mark(MarkerKind.CHECKPOINT))
