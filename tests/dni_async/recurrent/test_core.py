"""Any recurrent module runs over windows with one state tensor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.recurrent.core import RecurrentCore
from tests.support.recurrent_cores import CORES, HIDDEN, INPUTS

ROWS, STEPS = 3, 4


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("name", CORES)
def test_a_sequence_in_windows_equals_the_sequence_in_one(name: str) -> None:
    torch.manual_seed(0)
    make, size = CORES[name]
    core = RecurrentCore(make())
    x = torch.randn(ROWS, STEPS, INPUTS)
    whole, _ = core(x)
    first, state = core(x[:, :1])
    second, end = core(x[:, 1:], state)
    assert state.shape == end.shape == (ROWS, size)
    assert whole.shape[:2] == (ROWS, STEPS)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("name", CORES)
def test_every_row_has_a_row_of_the_state(name: str) -> None:
    torch.manual_seed(0)
    core = RecurrentCore(CORES[name][0]())
    x = torch.randn(ROWS, STEPS, INPUTS)
    _, state = core(x)
    order = torch.tensor([2, 0, 1])
    out, end = core(x, state)
    shuffled_out, shuffled_end = core(x[order], state[order])
    torch.testing.assert_close(shuffled_out, out[order])
    torch.testing.assert_close(shuffled_end, end[order])


def test_the_state_of_an_lstm_is_h_and_then_c() -> None:
    lstm = nn.LSTM(INPUTS, HIDDEN, 2, batch_first=True)
    x = torch.randn(ROWS, STEPS, INPUTS)
    _, (h, c) = lstm(x)
    _, state = RecurrentCore(lstm)(x)
    assert torch.equal(state, torch.cat([h[0], h[1], c[0], c[1]], 1))


def test_the_state_dict_of_a_core_is_that_of_its_module() -> None:
    lstm = nn.LSTM(INPUTS, HIDDEN)
    assert list(RecurrentCore(lstm).state_dict()) == [f"module.{name}" for name in lstm.state_dict()]


class Gives(nn.Module):
    def __init__(self, result: object) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: Tensor, state: object) -> object:
        return self.result


OUT = torch.zeros(ROWS, STEPS, 1)


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        (OUT, r"gives \(out, state\), not Tensor"),
        ((OUT, torch.zeros(1, ROWS, 2)), "a part of shape"),
        ((OUT, torch.zeros(ROWS, 2, dtype=torch.long)), "int64"),
        ((OUT, {"h": OUT}), "the core's state is dict"),
    ],
)
def test_a_module_that_is_no_core_is_refused_in_one_line(result: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        RecurrentCore(Gives(result))(torch.zeros(ROWS, STEPS, 1))


def test_a_core_that_needs_the_future_is_refused() -> None:
    with pytest.raises(UserError, match="bidirectional"):
        RecurrentCore(nn.GRU(INPUTS, HIDDEN, bidirectional=True))
