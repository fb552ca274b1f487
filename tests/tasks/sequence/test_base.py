"""Windows, cores by name, and the loss of bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from tasks.sequence.base import Window, cut, recurrent


def test_sequences_are_cut_into_windows_and_end_with_the_last() -> None:
    x = torch.arange(14).view(2, 7)
    whole = Window(x, x + 1, torch.ones(2, 7), is_last=True)
    windows = list(cut(whole, 3))
    assert [window.x.shape[1] for window in windows] == [3, 3, 1]
    assert [window.is_last for window in windows] == [False, False, True]
    assert torch.equal(torch.cat([window.x for window in windows], 1), x)
    assert all(torch.equal(w.y, w.x + 1) and w.mask is not None for w in windows)
    assert not any(window.is_last for window in cut(Window(x, x), 3))


def test_an_lstm_starts_with_open_forget_gates() -> None:
    torch.manual_seed(0)
    plain = nn.LSTM(2, 5, 2, batch_first=True)
    torch.manual_seed(0)
    ours = recurrent("LSTM", 2, 5, 2)
    for layer in ("l0", "l1"):
        difference = getattr(ours, f"bias_ih_{layer}") - getattr(plain, f"bias_ih_{layer}")
        assert difference.round(decimals=5).tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10


def test_an_unknown_core_is_refused() -> None:
    assert isinstance(recurrent("gru", 2, 3), nn.GRU) and isinstance(recurrent("rnn", 2, 3), nn.RNN)
    with pytest.raises(UserError, match="unknown core \\(transformer\\)"):
        recurrent("transformer", 2, 3)
