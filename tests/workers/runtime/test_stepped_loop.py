from __future__ import annotations

import pytest
import torch

from dni_async.errors import StageError
from dni_async.messages import Activation, Marker, MarkerKind, TargetGradient
from tests.support.stages import pipeline
from workers.runtime.stepped_loop import CallCheck, call_of

BATCH = Activation(0, 0, torch.zeros(1, 2), torch.zeros(1))
EVALUATION = Activation(0, 0, torch.zeros(1, 2), torch.zeros(1), train=False)
MARKER = Marker(MarkerKind.REPORT, 0, 0)


def test_every_message_from_upstream_belongs_to_a_call() -> None:
    assert [call_of(message) for message in (BATCH, EVALUATION, MARKER)] == ["step", "eval", "drain"]


def test_the_message_that_was_called_for_is_counted_and_another_is_refused() -> None:
    check = CallCheck(pipeline()[1])
    check.expected = "step"
    check.check(BATCH)
    assert check.taken == 1
    with pytest.raises(StageError, match=r"called step\(\) where the stage upstream called eval\(\)"):
        check.check(EVALUATION)
    assert check.taken == 1


def test_messages_from_downstream_belong_to_no_call() -> None:
    check = CallCheck(pipeline()[1])
    check.check(TargetGradient(0, 0, torch.zeros(1, 2)))
    check.check(Marker(MarkerKind.REPORT, 0, 0, returning=True))
    assert (check.taken, check.returned) == (0, 1)
