"""What a task over time is: a model with a recurrent core, windows of sequences, and how they are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.errors import UserError


@dataclass(slots=True)
class Window:
    """A few time steps of a batch of sequences."""

    x: Tensor
    """(B, T) symbols or (B, T, F) features."""
    y: Tensor
    """(B, T) or (B, T, F): the target of each step."""
    mask: Tensor | None = None
    """(B, T) floats: 1 at the steps that count; None when all do."""
    is_last: bool = False
    """Whether the sequences end with this window."""

    def to(self, device: torch.device) -> Window:
        """Return the same window on a device."""
        mask = None if self.mask is None else self.mask.to(device)
        return Window(self.x.to(device), self.y.to(device), mask, self.is_last)


def cut(whole: Window, steps: int) -> Iterator[Window]:
    """Yield whole sequences in windows of `steps` time steps; the last one has what is left."""
    length = whole.x.shape[1]
    for a in range(0, length, steps):
        b = min(a + steps, length)
        mask = None if whole.mask is None else whole.mask[:, a:b]
        yield Window(whole.x[:, a:b], whole.y[:, a:b], mask, whole.is_last and b == length)


class Sequences(ABC):
    """The sequences of a task in one run. A subclass may make them harder as training goes on."""

    symbols: tuple[str, ...] = ()
    """The vocabulary of a text: symbol i is number i in x."""

    @abstractmethod
    def training(self, bptt: int) -> Iterator[Window]:
        """Yield one epoch of windows of `bptt` steps (shorter where sequences end)."""

    @abstractmethod
    def windows(self, bptt: int) -> int:
        """Return the number of windows in an epoch, up to one sequence more or less."""

    def evaluation(self, split: str) -> Iterator[Window]:
        """Yield the windows of "validation" or "test"; the state is carried on until a window `is_last`."""
        return iter(())

    def trained(self, window: Window, out: Tensor) -> None:
        """Take the model's outputs for a training window into account, as a curriculum does."""

    def progress(self) -> dict[str, Any]:
        """Return what the curriculum has reached, JSON-able."""
        return {}


class SequenceModel(nn.Module):
    """x -> encoder -> recurrent core -> head. The core may be any module that `RecurrentCore` accepts."""

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
    """Key of the first number of `scores`, lower is better; empty when nothing is evaluated."""

    @property
    def name(self) -> str:
        """Name of the task in reports."""
        return type(self).__name__

    @abstractmethod
    def sequences(self, root: Path | None, batch_size: int, seed: int) -> Sequences:
        """Return the data. Raises `dni_async.errors.UserError` when a file is missing, empty or damaged."""

    @abstractmethod
    def model(self, symbols: int) -> SequenceModel:
        """Return a new model; `symbols` is the size of the vocabulary, 0 when there is none."""

    @abstractmethod
    def loss(self, out: Tensor, window: Window) -> Tensor:
        """Return the scalar to minimise, a mean over the batch, for the head's outputs (B, T, ...)."""

    def cost(self, out: Tensor, window: Window) -> tuple[float, int]:
        """Return the sum of the evaluated cost over a window, lower is better, and the number of terms."""
        return float(self.loss(out, window)) * len(out), len(out)

    def scores(self, cost: float) -> dict[str, float]:
        """Return the mean cost as named scores, such as a perplexity."""
        return {"loss": cost}


def recurrent(kind: str, inputs: int, width: int, layers: int = 1, dropout: float = 0.0) -> nn.RNNBase:
    """Return an LSTM, GRU or RNN by name, batch first; an LSTM's forget gates start open (bias + 1)."""
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
