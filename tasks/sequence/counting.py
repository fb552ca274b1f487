"""Adding and argmax, after pytorch-dnc's task list: one answer at the end of a sequence of numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.sequence.base import SequenceModel, Sequences, SequenceTask, Window, cut, recurrent
from tasks.vision.digits import at_least

EVALUATED = 512
"""Sequences of the validation set and of the test set."""


class Fresh(Sequences):
    """Sequences drawn afresh for training; validation and test are drawn once, each from its own stream."""

    def __init__(self, task: _LastStep, batch_size: int, seed: int) -> None:
        self.task, self.batch_size = task, batch_size
        self._generator = torch.Generator().manual_seed(seed)

    def training(self, bptt: int) -> Iterator[Window]:
        """Windows, until an epoch's number of updates is reached."""
        seen = 0
        while seen < self.task.updates:  # the last sequence is finished
            for window in cut(self.task.draw(self.batch_size, self._generator), bptt):
                yield window
                seen += 1

    def windows(self, bptt: int) -> int:
        """The updates of an epoch."""
        return self.task.updates

    def evaluation(self, split: str) -> Iterator[Window]:
        """The same whole sequences each time, whatever the seed of the run."""
        generator = torch.Generator().manual_seed({"validation": 1, "test": 2}[split])
        yield self.task.draw(EVALUATED, generator)


class _LastStep(SequenceTask):
    """What the tasks of this file share."""

    inputs: int
    outputs: int

    def __init__(self, core: str = "lstm", width: int = 100, length: int = 10, updates: int = 1000) -> None:
        """Core: lstm, gru or rnn; width: its units; length: numbers in a sequence; updates: of an epoch."""
        self.core, self.width = core, at_least(1, width=width)
        self.length, self.updates = at_least(1, length=length), at_least(1, updates=updates)

    @abstractmethod
    def draw(self, rows: int, generator: torch.Generator) -> Window:
        """Whole sequences; y counts at the last step only."""

    def sequences(self, root: Path | None, batch_size: int, seed: int) -> Fresh:
        """Drawn afresh; `root` is not used."""
        return Fresh(self, batch_size, seed)

    def model(self, symbols: int) -> SequenceModel:
        """The core alone, and a linear head."""
        core = recurrent(self.core, self.inputs, self.width)
        return SequenceModel(nn.Identity(), core, nn.Linear(self.width, self.outputs))


class Adding(_LastStep):
    """The sum of `length` digits, each a one-hot vector: regressed, in units of ten."""

    score_name = "absolute_error"
    inputs, outputs = 10, 1

    @property
    def name(self) -> str:
        """What reports call this task."""
        return "adding"

    def draw(self, rows: int, generator: torch.Generator) -> Window:
        """Digits 0 to 9 and their sum."""
        digits = torch.randint(0, 10, (rows, self.length), generator=generator)
        y = torch.zeros(rows, self.length)
        y[:, -1] = digits.sum(1) / 10
        return Window(F.one_hot(digits, 10).float(), y, _last(y), ends=True)

    def loss(self, out: Tensor, window: Window) -> Tensor:
        """Mean squared error of the answer."""
        assert window.mask is not None
        return ((out.squeeze(2) - window.y).square() * window.mask).sum(1).mean()

    def cost(self, out: Tensor, window: Window) -> tuple[float, int]:
        """Absolute errors, in units of one."""
        assert window.mask is not None
        return float((10 * (out.squeeze(2) - window.y).abs() * window.mask).sum()), len(out)

    def scores(self, cost: float) -> dict[str, float]:
        """How far the sum is off, on average."""
        return {"absolute_error": cost}


class Argmax(_LastStep):
    """The position of the largest of `length` numbers between 0 and 1."""

    score_name = "error_rate"
    inputs = 1

    @property
    def outputs(self) -> int:  # type: ignore[override]
        """One class per position."""
        return self.length

    @property
    def name(self) -> str:
        """What reports call this task."""
        return "argmax"

    def draw(self, rows: int, generator: torch.Generator) -> Window:
        """Numbers and the position of the largest."""
        x = torch.rand(rows, self.length, generator=generator)
        y = torch.zeros(rows, self.length, dtype=torch.long)
        y[:, -1] = x.argmax(1)
        return Window(x.unsqueeze(2), y, _last(x), ends=True)

    def loss(self, out: Tensor, window: Window) -> Tensor:
        """Cross-entropy of the answer."""
        assert window.mask is not None
        each = F.cross_entropy(out.flatten(0, 1), window.y.flatten(), reduction="none")
        return (each.view_as(window.mask) * window.mask).sum(1).mean()

    def cost(self, out: Tensor, window: Window) -> tuple[float, int]:
        """Wrong answers."""
        return float((out[:, -1].argmax(1) != window.y[:, -1]).sum()), len(out)

    def scores(self, cost: float) -> dict[str, float]:
        """Share of wrong and of right answers."""
        return {"error_rate": cost, "accuracy": 1.0 - cost}


def _last(like: Tensor) -> Tensor:
    """(B, T) floats, 1 at the last step."""
    mask = torch.zeros(like.shape[:2])
    mask[:, -1] = 1.0
    return mask
