"""Recurrent layers that carry their state through ordinary loops."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dni_async.networks.settings import SGConfig
from dni_async.recurrent.bootstrap import dni_through_time, permuted
from dni_async.recurrent.core import RecurrentCore
from dni_async.recurrent.stateful_rnn import StatefulRNN, set_sequence_length
from dni_async.recurrent.through_time import MakePredictor, ThroughTime
from dni_async.state.state_dict import copied
from dni_async.synthesis.predictor import Predictor
from tests.support.recurrent_cores import CORES, HIDDEN, INPUTS, Adds
from tests.support.through_time import (
    ROWS,
    ExactPredictor,
    RecordingPredictor,
    equal_to_full_bptt,
    gradients,
    square,
)


class Sums(Adds):
    """The same with a weight of 1, without which there is nothing to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        out, state = super().forward(x, state)
        return self.weight * out, state + 0 * self.weight


def lstm() -> nn.LSTM:
    torch.manual_seed(0)
    return nn.LSTM(INPUTS, HIDDEN)


def uncautious(state: Tensor) -> Predictor:
    """An SG network whose predictions are given in full: a share of zero would hide what is injected."""
    cautious = dni_through_time(SGConfig(kind="mlp", lr=0.1))(state)
    return cautious.predictor  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_ordinary_loop_trains_as_through_time_does(batch_first: bool) -> None:
    torch.manual_seed(1)
    windows = torch.randn(ROWS, 12, INPUTS).split(3, 1)
    trained: list[list[Tensor]] = []
    for carried in (True, False):
        torch.manual_seed(0)
        core = RecurrentCore(nn.LSTM(INPUTS, HIDDEN, batch_first=batch_first))
        through = ThroughTime(core, uncautious, state_bound=0.1)
        layer = StatefulRNN(core, uncautious, state_bound=0.1, sequence=4)
        optimizer = torch.optim.SGD(core.parameters(), lr=0.5)
        for i, x in enumerate(windows * 2):
            if carried:
                square(layer(x)).backward()
            else:
                through.backward(square(through(x)), ends=i % 4 == 3)
            optimizer.step()
            optimizer.zero_grad()
        predictor = (layer.through_time if carried else through).predictor
        trained.append([*core.parameters(), *predictor.network.parameters()])  # type: ignore
    for mine, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("name", CORES)
def test_with_an_oracle_at_the_last_state_windows_equal_full_bptt(name: str) -> None:
    def train(core: RecurrentCore, oracle: ExactPredictor, x: Tensor) -> None:
        layer = StatefulRNN(core, lambda state: oracle, discount=1.0, sequence=4)
        for window in x.split(3, 1):
            square(layer(window)).backward()

    equal_to_full_bptt(name, 3, train)


def test_the_gradient_travels_on_to_the_layers_before() -> None:
    first, core = nn.Linear(INPUTS, INPUTS), RecurrentCore(lstm())
    x = torch.randn(ROWS, 6, INPUTS)
    square(core(first(x))[0]).backward()
    assert first.weight.grad is not None
    expected, first.weight.grad = first.weight.grad, None
    oracle = ExactPredictor(core, first(x).detach(), 3)
    layers = nn.Sequential(first, StatefulRNN(core, lambda state: oracle, discount=1.0, sequence=2))
    for window in x.split(3, 1):
        square(layers(window)).backward()
    torch.testing.assert_close(first.weight.grad, expected)


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_backwards_may_come_when_the_next_windows_have_been_run(ahead: int) -> None:
    told = RecordingPredictor(5.0)
    layer = StatefulRNN(Sums(), lambda state: told, discount=0.5)
    waiting: list[Tensor] = []
    for _ in range(3):
        waiting.append(layer(torch.ones(2, 3, 1)).sum((1, 2)).mean())
        if len(waiting) == ahead:
            waiting.pop(0).backward()
    for loss in waiting:
        loss.backward()
    assert told.seen == [
        "predict 1 for 2",
        *("predict 2 for 2", "take 1 of 2"),
        *("predict 3 for 2", "take 2 of 2"),
    ]
    # of the window: 3 outputs, over 2 rows; of the next prediction: 5; half of it
    assert all(torch.equal(target, torch.full((2, 1), 0.5 * (3 / 2 + 5))) for target in told.targets)


def test_after_a_sequence_the_state_is_reset_and_nothing_is_predicted() -> None:
    told = RecordingPredictor(0.0)
    layer = StatefulRNN(Sums(), lambda state: told, sequence=2)
    first = []
    for _ in range(5):
        out = layer(torch.ones(1, 2, 1))
        first.append(out[0, 0, 0].item())
        out.sum().backward()
    assert first == [1, 3, 1, 3, 1]
    assert told.seen == [
        *("predict 1 for 1", "take 1 of 1", "predict 3 for 1", "take 3 of 1"),
        "predict 5 for 1",
    ]


def test_every_evaluation_starts_with_a_state_of_its_own() -> None:
    layer = StatefulRNN(Adds())
    ones = torch.ones(1, 2, 1)
    assert layer(ones)[0, 0, 0] == 1
    for _ in range(2):
        layer.eval()
        assert [layer(ones)[0, 0, 0].item() for _ in range(3)] == [1, 3, 5]
        layer.train()
    assert layer(ones)[0, 0, 0] == 3


def test_in_evaluation_every_window_may_be_a_sequence() -> None:
    layer = StatefulRNN(Adds(), one_by_one=True).eval()
    assert [layer(torch.ones(rows, 2, 1))[0, 0, 0].item() for rows in (2, 1, 3)] == [1, 1, 1]


def test_evaluation_in_windows_is_evaluation_in_one_piece() -> None:
    layer = StatefulRNN(lstm()).eval()
    x = torch.randn(1, 9, INPUTS)
    with torch.no_grad():
        parts = [layer(part) for part in x.split(4, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), layer.eval()(x))


def test_without_autograd_the_state_is_carried_and_nothing_learned() -> None:
    told = RecordingPredictor(0.0)
    layer = StatefulRNN(Sums(), lambda state: told)
    with torch.no_grad():
        assert [layer(torch.ones(1, 2, 1))[0, 0, 0].item() for _ in range(3)] == [1, 3, 5]
    assert told.seen == []
    layer.sequence = 4
    layer(torch.ones(1, 2, 1)).sum().backward()
    assert told.seen == []  # the sequence has ended, and nothing was foretold at its window's start


def test_the_outputs_lie_in_memory_as_a_transport_would_bring_them() -> None:
    for core in (nn.LSTM(INPUTS, HIDDEN), nn.LSTM(INPUTS, HIDDEN, batch_first=True)):
        assert StatefulRNN(core)(torch.randn(ROWS, 3, INPUTS)).is_contiguous()


def test_weights_alone_are_saved_and_a_copy_goes_its_own_way() -> None:
    layer = StatefulRNN(lstm(), dni_through_time())
    x = torch.randn(ROWS, 3, INPUTS)
    for _ in range(2):
        square(layer(x)).backward()
    assert set(layer.state_dict()) == {f"core.module.{name}" for name in lstm().state_dict()}
    other = copy.deepcopy(layer)
    assert other.through_time.core is other.core and torch.equal(other(x), layer(x))
    square(other(x)).backward()
    assert layer.through_time.windows + 1 == other.through_time.windows


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("make", [dni_through_time(), permuted(dni_through_time(SGConfig(kind="mlp")))])
@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_layer_loaded_from_a_state_continues_its_sequence(
    name: str, make: MakePredictor, done: int
) -> None:
    """From within a sequence of two windows, and from between two."""
    torch.manual_seed(0)
    windows = torch.randn(4, ROWS, 3, INPUTS)
    one, other = (StatefulRNN(CORES[name][0](), make, sequence=2) for _ in range(2))
    for x in windows[:done]:
        square(one(x)).backward()
    one.zero_grad()
    other.load_state_dict(one.state_dict())
    other.load_running_state(copied(one.running_state()))
    for x in windows[done:]:
        for layer in (one, other):
            square(layer(x)).backward()
    for mine, theirs in zip(gradients(one), gradients(other), strict=True):
        assert torch.equal(mine, theirs)
    assert one.through_time.windows == other.through_time.windows


def test_stats_cover_state_and_synthetic_gradient_since_the_epoch_began() -> None:
    layer = StatefulRNN(lstm(), dni_through_time(), state_bound=0.05)
    assert layer.stats() == {"state_max": None, "time_sg_error": None, "time_sg_share": None}
    for _ in range(2):
        square(layer(torch.randn(ROWS, 3, INPUTS))).backward()
    told = layer.stats()
    assert told["state_max"] == pytest.approx(0.05) and told["time_sg_error"] == pytest.approx(1.0)
    layer.new_epoch()
    assert layer.stats() == {
        "state_max": None,
        "time_sg_error": None,
        "time_sg_share": 0.0,
    }  # its share goes on


def test_the_sequence_length_reaches_nested_layers() -> None:
    inner, outer, knowing = StatefulRNN(lstm()), StatefulRNN(lstm()), StatefulRNN(lstm(), sequence=2)
    set_sequence_length(7, nn.Sequential(nn.Sequential(inner)), outer, knowing, nn.Linear(1, 1))
    assert (inner.sequence, outer.sequence, knowing.sequence) == (7, 7, 2)
