"""Random bit sequences that become longer each time that the present length is solved."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from tasks.sequence.base import Sequences, Window, cut

SOLVED = 0.15
"""Mean wrong bits per sequence below which a length counts as solved (paper, section 3.2)."""
LOOK_BACK = 512
"""Sequences over which that mean is taken."""


class GrowingSequences(Sequences):
    """New random sequences for every batch, which grow with what has been learned."""

    def __init__(self, batch_size: int, seed: int, updates: int) -> None:
        self.batch_size = batch_size
        self.solved = 0
        """The longest length solved."""
        self.solved_at: dict[int, int] = {}
        """Updates after which each length was solved."""
        self._updates = updates
        self._seen = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._wrong = torch.zeros(batch_size)
        self._recent: deque[Tensor] = deque()

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of bits to be reproduced in a sequence."""

    @abstractmethod
    def draw(self) -> Window:
        """Return a batch of whole sequences."""

    @abstractmethod
    def grow(self) -> None:
        """Go on to the next length."""

    @override
    def training(self, bptt: int) -> Iterator[Window]:
        end = self._seen + self._updates
        while self._seen < end:  # the last sequence is finished
            yield from cut(self.draw(), bptt)

    @override
    def windows(self, bptt: int) -> int:
        return self._updates

    @override
    def trained(self, window: Window, out: Tensor) -> None:
        """Count wrong bits, and grow when the last `LOOK_BACK` sequences had few."""
        assert window.mask is not None
        self._seen += 1
        self._wrong += (((out.squeeze(2) > 0) != (window.y > 0.5)) * window.mask).sum(1).cpu()
        if not window.is_last:
            return
        self._recent.append(self._wrong)
        self._wrong = torch.zeros(self.batch_size)
        if len(self._recent) * self.batch_size < LOOK_BACK:
            return
        if float(torch.cat(list(self._recent)).mean()) < SOLVED:
            self.solved = self.length
            self.solved_at[self.length] = self._seen
            self._recent.clear()
            self.grow()
        else:
            self._recent.popleft()

    @override
    def progress(self) -> dict[str, Any]:
        solved_at = {str(length): updates for length, updates in self.solved_at.items()}
        return {"longest_solved_length": self.solved, "solved_at_update": solved_at}

    def bits(self, count: int) -> Tensor:
        """Return (B, count) random bits."""
        return torch.randint(0, 2, (self.batch_size, count), generator=self._generator)
