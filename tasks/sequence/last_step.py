"""Tasks whose one answer comes at the end of a sequence of random numbers (after pytorch-dnc's task list)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_async.checks import at_least
from tasks.sequence.base import SequenceModel, Sequences, SequenceTask, Window, cut, recurrent

EVALUATED = 512
"""Sequences of the validation set and of the test set."""


class LastStepTask(SequenceTask):
    """Base of the tasks that are scored at the last step: the core alone, and a linear head."""

    inputs: int
    """Features of a step."""
    outputs: int

    def __init__(self, core: str = "lstm", width: int = 100, length: int = 10, updates: int = 1000) -> None:
        """Core: lstm, gru or rnn; width: its units; length: numbers in a sequence; updates: of an epoch."""
        self.core, self.width = core, at_least(1, width=width)
        self.length, self.updates = at_least(1, length=length), at_least(1, updates=updates)

    @abstractmethod
    def draw(self, rows: int, generator: torch.Generator) -> Window:
        """Return `rows` new sequences; y counts at the last step only."""

    @override
    def sequences(self, root: Path | None, batch_size: int, seed: int) -> FreshSequences:
        return FreshSequences(self, batch_size, seed)

    @override
    def model(self, symbols: int) -> SequenceModel:
        core = recurrent(self.core, self.inputs, self.width)
        return SequenceModel(nn.Identity(), core, nn.Linear(self.width, self.outputs))


class FreshSequences(Sequences):
    """New sequences for every training batch; validation and test are drawn once, each from its own seed."""

    def __init__(self, task: LastStepTask, batch_size: int, seed: int) -> None:
        self.task, self.batch_size = task, batch_size
        self._generator = torch.Generator().manual_seed(seed)

    @override
    def training(self, bptt: int) -> Iterator[Window]:
        count = 0
        while count < self.task.updates:  # the last sequence is finished
            for window in cut(self.task.draw(self.batch_size, self._generator), bptt):
                yield window
                count += 1

    @override
    def windows(self, bptt: int) -> int:
        return self.task.updates

    @override
    def evaluation(self, split: str) -> Iterator[Window]:
        generator = torch.Generator().manual_seed({"validation": 1, "test": 2}[split])
        yield self.task.draw(EVALUATED, generator)


def last_step_mask(like: Tensor) -> Tensor:
    """Return (B, T) floats, 1 at the last step, for a tensor (B, T, ...)."""
    mask = torch.zeros(like.shape[:2])
    mask[:, -1] = 1.0
    return mask
