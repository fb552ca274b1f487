"""The recurrent SG network: its prediction depends on earlier batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_async.checks import at_least
from dni_async.errors import UserError
from dni_async.networks.base import DNINetwork, misfit, required, zero_output

KINDS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class RNNDNI(DNINetwork):
    """`num_layers` of LSTM, GRU or RNN over [h ; y], then a linear output that starts at zero.

    h: (B, T, D), with `batch_first=False` (T, B, D), or (B, D) for one step, such as a wrapped cell's.
    y: (B, C), repeated over time, or with time steps like h; or absent.

    The hidden state is kept from batch to batch (truncated at each, as in backprop through time) until the
    batch size changes or `reset()` is called, before a batch that does not continue the last.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        batch_first: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        kind: str = "lstm",
        label_size: int = 0,
    ) -> None:
        at_least(1, input_size=input_size, hidden_size=hidden_size, output_size=output_size)
        at_least(1, num_layers=num_layers)
        at_least(0, label_size=label_size)
        if kind not in KINDS:
            raise UserError(f"unknown kind of recurrent SG network ({kind}); use one of {', '.join(KINDS)}")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it must be at least 0 and below 1")
        super().__init__(input_size, hidden_size, output_size)
        self.label_size = label_size
        self.batch_first = batch_first
        self.rnn = KINDS[kind](
            input_size + label_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
        )
        self.output = nn.Linear(hidden_size, output_size, bias)
        zero_output(self.output)

    @override
    def forward(self, input: Tensor, hidden: Any = None, labels: Tensor | None = None) -> tuple[Tensor, Any]:
        if input.ndim not in (2, 3):
            raise UserError(f"RNNDNI predicts for (B, D) or (B, T, D), not for {tuple(input.shape)}")
        sequence = input.unsqueeze(self._time) if input.ndim == 2 else input
        if self.label_size:
            labels = required(labels, self.label_size)
            if labels.ndim == 2:
                labels = labels.unsqueeze(self._time)
            if labels.ndim != 3 or labels.shape[self._time] not in (1, sequence.shape[self._time]):
                raise misfit(labels, input)
            sequence = torch.cat([sequence, labels.expand(*sequence.shape[:-1], -1)], -1)
        output, hidden = self.rnn(sequence, hidden)
        return self.output(output).view_as(input), hidden

    @override
    def samples_in(self, h: Tensor) -> int:
        return h.shape[0] if h.ndim == 2 else h.shape[1 - self._time]

    @property
    def _time(self) -> int:
        return 1 if self.batch_first else 0
