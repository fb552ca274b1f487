"""What is wrong with a task for some settings; the rest is tested through the plan."""

import pytest

from dni_async.errors import UserError
from launch.engines.registry import ENGINES
from launch.job.task_checks import check_state, check_until
from tests.support.tiny_task import Tiny


class Distance(Tiny):
    metric_name = "distance"


def test_only_an_accuracy_can_be_trained_up_to():
    check_until(Tiny(), 0.9)
    check_until(Distance(), None)
    with pytest.raises(UserError) as error:
        check_until(Distance(), 0.9)
    assert str(error.value) == (
        "until is a test accuracy, and task Distance measures distance; leave --until out"
    )


class Stateful(Tiny):
    carries_state = True


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_that_carry_state_need_whole_batches_in_their_order(engine):
    check_state(Tiny(), engine)
    if engine in ("decoupled", "backprop", "backprop-all", "copies"):
        check_state(Stateful(), engine)
        return
    with pytest.raises(UserError) as error:
        check_state(Stateful(), engine)
    assert str(error.value) == (
        f"engine {engine} splits batches or layers, and those of Stateful carry state from batch to batch; "
        "use one of decoupled, backprop, backprop-all, copies"
    )


def test_no_batch_of_layers_that_carry_state_can_be_skipped():
    check_state(Tiny(), "decoupled", "skip")
    with pytest.raises(UserError) as error:
        check_state(Stateful(), "decoupled", "skip")
    assert str(error.value) == (
        "on-nonfinite is skip, and layers of Stateful carry state from batch to batch: none can be skipped; "
        "leave it out"
    )


def test_layers_with_state_are_not_supervised():
    check_state(Tiny(), "decoupled", supervise=True)
    with pytest.raises(UserError, match="carry state from batch to batch: theirs would be of another place"):
        check_state(Stateful(), "decoupled", supervise=True)


def test_layers_that_carry_state_are_not_tried_out_ahead() -> None:
    check_state(Tiny(), "decoupled", compiled=True)
    with pytest.raises(UserError, match=r"compile tries layers out, .* leave it out"):
        check_state(Stateful(), "decoupled", compiled=True)
