"""Windows of T steps under truncated BPTT, an oracle, and an SG network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.recurrent.auxiliary_task import Auxiliary
from dni_async.recurrent.bootstrap import dni_through_time
from dni_async.recurrent.core import RecurrentCore
from dni_async.recurrent.through_time import ThroughTime
from tests.support.learning import lesson
from tests.support.recurrent_cores import CORES, HIDDEN, INPUTS, Adds
from tests.support.through_time import (
    ROWS,
    ExactPredictor,
    RecordingPredictor,
    equal_to_full_bptt,
    gradients,
    square,
)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("T", [1, 3, 4])
def test_with_an_oracle_at_the_last_state_windows_equal_full_bptt(name: str, T: int) -> None:
    def train(core: RecurrentCore, oracle: ExactPredictor, x: Tensor) -> None:
        through = ThroughTime(core, lambda state: oracle, discount=1.0)
        for at in range(0, 11, T):
            through.backward(square(through(x[:, at : at + T])), ends=at + T >= 11)

    oracle = equal_to_full_bptt(name, T, train)
    for step, target in oracle.targets.items():  # the bootstrapped target is exact when predictions are
        torch.testing.assert_close(target, oracle.predicted[step], rtol=0, atol=1e-9)


def test_rows_of_different_lengths_get_the_gradients_of_their_own_sequences() -> None:
    core, x = RecurrentCore(nn.LSTM(INPUTS, HIDDEN).double()), torch.randn(ROWS, 8, INPUTS).double()
    lengths = torch.tensor([2, 8, 4, 6])
    out, _ = core(x)
    alive = torch.arange(8) < lengths.unsqueeze(1)
    ((out - 0.3).square().sum(2) * alive).sum(1).mean().backward()
    expected = gradients(core)
    oracle = ExactPredictor(core, x, 2, lengths)
    through = ThroughTime(core, lambda state: oracle, discount=1.0)
    for at in range(0, 8, 2):
        here = (alive[:, at : at + 2]).unsqueeze(2)
        loss = ((through(x[:, at : at + 2]) - 0.3).square() * here).sum((1, 2)).mean()
        # the rows that are over run on as new sequences, without a loss
        through.backward(loss, ends=lengths <= at + 2)
    for mine, theirs in zip(gradients(core), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    for step, target in oracle.targets.items():  # of those rows only that were predicted for
        share = len(oracle.predicted[step]) / ROWS
        torch.testing.assert_close(target * share, oracle.predicted[step] * share, rtol=0, atol=1e-9)


def test_without_a_predictor_training_is_truncated_bptt() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(INPUTS, HIDDEN, batch_first=True)
    x = torch.randn(ROWS, 6, INPUTS)
    state = None
    for window in x.split(2, 1):
        out, (h, c) = lstm(window, state)
        square(out).backward()
        state = h.detach(), c.detach()
    expected = gradients(lstm)
    through = ThroughTime(lstm)
    for window in x.split(2, 1):
        through.backward(square(through(window)))
    for mine, theirs in zip(gradients(lstm), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_an_untrained_sg_network_changes_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(ROWS, 2, INPUTS)
    found = []
    for make in (None, dni_through_time()):
        torch.manual_seed(1)
        through = ThroughTime(nn.GRU(INPUTS, HIDDEN), make)
        through.backward(square(through(x)))
        found.append(gradients(through.core))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_targets_follow_the_order_of_the_docstring_and_stop_at_a_sequences_end() -> None:
    predictor = RecordingPredictor(0.0)
    through = ThroughTime(Adds(), lambda state: predictor)
    weight = torch.ones((), requires_grad=True)
    for end in (False, False, True, False, True):
        through.backward((through(torch.ones(2, 3, 1)) * weight).sum() / 2, end)
    first = ["predict 1 for 2", "predict 2 for 2", "take 1 of 2", "take 2 of 2"]
    assert predictor.seen == [*first, "predict 4 for 2", "take 4 of 2"]


def test_the_target_is_the_discounted_gradient_with_the_next_prediction_in_it() -> None:
    predictor = RecordingPredictor(5.0)
    through = ThroughTime(Adds(), lambda state: predictor, discount=0.5)
    weight = torch.ones((), requires_grad=True)
    for _ in range(2):
        through.backward((through(torch.ones(2, 3, 1)) * weight).sum((1, 2)).mean())
    # of the window: 3 outputs, over 2 rows; of the next prediction: 5; half of it
    assert torch.equal(predictor.targets[0], torch.full((2, 1), 0.5 * (3 / 2 + 5)))


def test_rows_that_end_start_from_zero_and_the_others_go_on() -> None:
    predictor = RecordingPredictor(0.0)
    through = ThroughTime(Adds(), lambda state: predictor)
    weight = torch.ones((), requires_grad=True)
    first = through(torch.ones(3, 2, 1))
    through.backward((first * weight).mean(), torch.tensor([False, True, False]))
    assert through(torch.ones(3, 2, 1))[:, 0, 0].tolist() == [3.0, 1.0, 3.0]
    through.backward(through._window[2].sum() * weight)  # type: ignore[index]
    assert predictor.seen == ["predict 1 for 2", "predict 2 for 3", "take 1 of 2"]


def test_the_state_that_is_carried_is_bounded() -> None:
    weight = torch.ones((), requires_grad=True)
    through = ThroughTime(Adds(), state_bound=2.5)
    for _ in range(3):
        through.backward((through(torch.ones(2, 2, 1)) * weight).mean())
    assert through(torch.ones(2, 1, 1))[0, 0, 0] == 3.5
    assert through.stats()["state_max"] == 2.5


def test_stats_cover_the_sg_network_and_are_reset_each_epoch() -> None:
    _, through = lesson(dni_through_time(), 50)
    stats = through.stats()
    assert stats["state_max"] > 0 and stats["sg_updates"] == 50 and stats["targets_dropped"] == 0
    assert stats["sg_cosine"] is not None and through.stats() == stats
    through.new_epoch()
    assert through.stats()["sg_cosine"] is None and through.stats()["state_max"] is None


def test_the_auxiliary_task_trains_its_network_and_the_core() -> None:
    auxiliary = Auxiliary()
    with_it, without = (lesson(dni_through_time(), 20, auxiliary=a)[0] for a in (auxiliary, None))
    assert auxiliary.network is not None and auxiliary.network.output.weight.abs().sum() > 0
    assert with_it != without


def test_resetting_forgets_the_state() -> None:
    through = ThroughTime(nn.GRU(INPUTS, HIDDEN))
    x = torch.randn(2, 3, INPUTS)
    before = through(x)
    through.backward(square(before))
    assert not torch.equal(through(x), before)
    through.reset()
    assert torch.equal(through(x), before)
    assert through(x[:1]).shape == (1, 3, HIDDEN)


@pytest.mark.parametrize("shape", [(3,), (3, 0, INPUTS)])
def test_a_window_without_steps_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="T of at least 1"):
        ThroughTime(nn.GRU(INPUTS, HIDDEN))(torch.zeros(shape))


def test_rows_must_not_change_within_sequences() -> None:
    through = ThroughTime(nn.GRU(INPUTS, HIDDEN))
    through.backward(square(through(torch.zeros(3, 2, INPUTS))))
    with pytest.raises(UserError, match="a window of 2 rows follows one of 3"):
        through(torch.zeros(2, 2, INPUTS))


def test_ends_must_have_a_bool_per_row() -> None:
    through = ThroughTime(nn.GRU(INPUTS, HIDDEN))
    with pytest.raises(UserError, match="one bool per row"):
        through.backward(square(through(torch.zeros(3, 2, INPUTS))), torch.zeros(2, dtype=torch.bool))
