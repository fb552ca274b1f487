"""What a task over time is: a model with a recurrent core, windows of sequences, and how they are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.networks.factory import SGConfig
from dni_async.recurrent.bootstrap import dni_through_time, permuted
from dni_async.recurrent.stateful_rnn import StatefulRNN

ENDS = ("bptt", "dni", "dni-permuted")
"""What ends a window of a layer that carries state: nothing, a synthetic gradient, or another row's."""
STATE_BOUND = 20.0
"""Of the state that they carry."""
OVER_TIME = SGConfig(kind="linear", units="rms")
"""Their SG network. The gradients are small where the loss is a mean over time: in other units their network,
whose steps are of one size, would not find them."""


@dataclass(slots=True)
class Window:
    """A few time steps of a batch of sequences."""

    x: Tensor
    """(B, T) symbols or (B, T, F) features."""
    y: Tensor
    """(B, T) or (B, T, F): what is wanted at each step."""
    mask: Tensor | None = None
    """(B, T) floats: 1 at the steps that count; None when all do."""
    ends: bool = False
    """Whether the sequences end with this window."""

    def to(self, device: torch.device) -> Window:
        """The same window on a device."""
        mask = None if self.mask is None else self.mask.to(device)
        return Window(self.x.to(device), self.y.to(device), mask, self.ends)


def cut(whole: Window, steps: int) -> Iterator[Window]:
    """Whole sequences in windows of `steps` time steps, the last one with what is left."""
    length = whole.x.shape[1]
    for a in range(0, length, steps):
        b = min(a + steps, length)
        mask = None if whole.mask is None else whole.mask[:, a:b]
        yield Window(whole.x[:, a:b], whole.y[:, a:b], mask, whole.ends and b == length)


class Sequences(ABC):
    """The sequences of a task in a run: it may keep count, and make them harder."""

    symbols: tuple[str, ...] = ()
    """Of a text: its vocabulary, in the order of the numbers in x."""

    @abstractmethod
    def training(self, bptt: int) -> Iterator[Window]:
        """One epoch of windows of `bptt` steps (shorter where sequences end)."""

    @abstractmethod
    def windows(self, bptt: int) -> int:
        """How many windows an epoch has, give or take a sequence."""

    def evaluation(self, split: str) -> Iterator[Window]:
        """The windows of "validation" or "test", state carried from one to the next until one `ends`."""
        return iter(())

    def trained(self, window: Window, out: Tensor) -> None:
        """What the model gave for a training window; a curriculum looks at it."""
        return

    def progress(self) -> dict[str, Any]:
        """What there is to tell of the training so far, JSON-able."""
        return {}


class SequenceModel(nn.Module):
    """x -> encoder -> recurrent core -> head. The core may be anything `RecurrentCore` takes."""

    def __init__(self, encoder: nn.Module, core: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.core = core
        self.head = head


class SequenceTask(ABC):
    """A model with a recurrent core to train, and the sequences to train it on.

    The constructor's keyword arguments are the task's own settings (`--task-args`).
    """

    score_name: str = "loss"
    """What `scores` calls its first number, lower is better; empty when nothing is evaluated."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What reports call this task."""

    @abstractmethod
    def sequences(self, root: Path | None, batch_size: int, seed: int) -> Sequences:
        """The data. Raises `dni_async.errors.UserError` when a file is missing, empty or damaged."""

    @abstractmethod
    def model(self, symbols: int) -> SequenceModel:
        """A new model; `symbols` is the size of the vocabulary, 0 when there is none."""

    @abstractmethod
    def loss(self, out: Tensor, window: Window) -> Tensor:
        """The scalar to minimise, a mean over the batch, for the head's outputs (B, T, ...)."""

    def cost(self, out: Tensor, window: Window) -> tuple[float, int]:
        """The sum of what evaluation measures over a window, lower is better, and what it was summed over."""
        return float(self.loss(out, window)) * len(out), len(out)

    def scores(self, cost: float) -> dict[str, float]:
        """The mean cost by names that people know, such as a perplexity."""
        return {"loss": cost}


def recurrent(kind: str, inputs: int, width: int, layers: int = 1, dropout: float = 0.0) -> nn.RNNBase:
    """An LSTM, GRU or RNN by name, batch first; an LSTM's forget gates start open (bias + 1)."""
    kinds = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
    if kind.lower() not in kinds:
        raise UserError(f"unknown core ({kind}); use one of {', '.join(kinds)}")
    between = dropout if layers > 1 else 0.0
    core = kinds[kind.lower()](inputs, width, layers, batch_first=True, dropout=between)
    if isinstance(core, nn.LSTM):
        with torch.no_grad():
            for name, bias in core.named_parameters():
                if name.startswith("bias_ih"):
                    bias[width : 2 * width] += 1.0
    return core


def known_end(end: str) -> str:
    """One of `ENDS`. Raises UserError for any other."""
    if end not in ENDS:
        raise UserError(f"end is {end}; use one of {', '.join(ENDS)}")
    return end


def carried(core: nn.Module, end: str, *, sequence: int = 0, one_by_one: bool = False) -> StatefulRNN:
    """A recurrent layer for tasks in layers; end: one of `ENDS`, the rest as `StatefulRNN`."""
    predictor = None if end == "bptt" else dni_through_time(OVER_TIME)
    if predictor is not None and end == "dni-permuted":
        predictor = permuted(predictor)
    return StatefulRNN(core, predictor, sequence=sequence, one_by_one=one_by_one, state_bound=STATE_BOUND)


def masked_bits(out: Tensor, window: Window) -> Tensor:
    """Binary cross-entropy (nats) of logits (B, T, 1) at the steps that count: sum over time, mean over B."""
    assert window.mask is not None
    each = F.binary_cross_entropy_with_logits(out.squeeze(2), window.y, reduction="none")
    return (each * window.mask).sum(1).mean()
