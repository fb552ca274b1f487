"""Copy and repeat copy (Graves et al. 2014), with sequences that grow as they are learned."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.sequence.base import SequenceModel, Sequences, SequenceTask, Window, cut, masked_bits, recurrent
from tasks.vision.digits import at_least

SOLVED = 0.15
"""Mean wrong bits per sequence below which a length counts as solved (paper, section 3.2)."""
LOOK_BACK = 512
"""Sequences over which that mean is taken."""


class Growing(Sequences):
    """Fresh random sequences, longer each time that the present length is solved."""

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
        """Bits that must be given back."""

    @abstractmethod
    def draw(self) -> Window:
        """A batch of whole sequences."""

    @abstractmethod
    def grow(self) -> None:
        """Go on to the next length."""

    def training(self, bptt: int) -> Iterator[Window]:
        """Windows, one update each, until an epoch's number of updates is reached."""
        end = self._seen + self._updates
        while self._seen < end:  # the last sequence is finished
            yield from cut(self.draw(), bptt)

    def windows(self, bptt: int) -> int:
        """The updates of an epoch."""
        return self._updates

    def trained(self, window: Window, out: Tensor) -> None:
        """Count wrong bits, and grow when the sequences of late had few."""
        assert window.mask is not None
        self._seen += 1
        self._wrong += (((out.squeeze(2) > 0) != (window.y > 0.5)) * window.mask).sum(1).cpu()
        if not window.ends:
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

    def progress(self) -> dict[str, Any]:
        """The result so far."""
        solved_at = {str(length): updates for length, updates in self.solved_at.items()}
        return {"longest_solved_length": self.solved, "solved_at_update": solved_at}

    def bits(self, count: int) -> Tensor:
        """(B, count) random bits."""
        return torch.randint(0, 2, (self.batch_size, count), generator=self._generator)


class CopySequences(Growing):
    """L bits to be said again after the end sign.

    ```
    step      0      1 .. L   L + 1   L + 2 .. 2L + 1
    x         start  bits     end     nothing            channels: bit is 0, bit is 1, start, end
    y         -      -        -       bits
    ```
    """

    length = 0

    def __init__(self, batch_size: int, seed: int, updates: int) -> None:
        super().__init__(batch_size, seed, updates)
        self.length = 1

    def grow(self) -> None:
        """One bit more."""
        self.length += 1

    def draw(self) -> Window:
        """A batch of sequences of 2L + 2 steps."""
        return sequence(self.bits(self.length), 1, torch.zeros(self.batch_size, 0))


class RepeatCopySequences(Growing):
    """As `CopySequences`, but said R times; R is told, over 10, in a channel of its own at the end sign.

    Length and repeats grow in turn: 1 x 1, 2 x 1, 2 x 2, 3 x 2 ... The length solved is their product.
    """

    def __init__(self, batch_size: int, seed: int, updates: int) -> None:
        super().__init__(batch_size, seed, updates)
        self.bits_once = self.repeats = 1

    @property
    def length(self) -> int:
        """Bits that must be given back."""
        return self.bits_once * self.repeats

    def grow(self) -> None:
        """A bit more or a repeat more, in turn."""
        if self.bits_once > self.repeats:
            self.repeats += 1
        else:
            self.bits_once += 1

    def draw(self) -> Window:
        """A batch of sequences of L + 2 + R L steps."""
        told = torch.full((self.batch_size, 1), self.repeats / 10)
        return sequence(self.bits(self.bits_once), self.repeats, told)

    def progress(self) -> dict[str, Any]:
        """The result so far, and where it stands."""
        return super().progress() | {"length_now": self.bits_once, "repeats_now": self.repeats}


def sequence(bits: Tensor, repeats: int, told: Tensor) -> Window:
    """bits (B, L) to be repeated; told (B, K) goes into K more channels of x at the end sign."""
    rows, length = bits.shape
    steps = 2 + length + repeats * length
    x = torch.zeros(rows, steps, 4 + told.shape[1])
    x[:, 0, 2] = x[:, length + 1, 3] = 1.0
    x[:, 1 : length + 1, :2] = F.one_hot(bits, 2).float()
    x[:, length + 1, 4:] = told
    y = torch.zeros(rows, steps)
    y[:, length + 2 :] = bits.repeat(1, repeats)
    mask = torch.zeros(rows, steps)
    mask[:, length + 2 :] = 1.0
    return Window(x, y, mask, ends=True)


class Copy(SequenceTask):
    """Copy with growing length (paper, section 3.2): the result is the longest length solved."""

    score_name = ""
    channels = 4

    def __init__(self, core: str = "lstm", width: int = 100, updates: int = 1000) -> None:
        """Core: lstm, gru or rnn; width: its units; updates: of an epoch."""
        self.core, self.width = core, at_least(1, width=width)
        self.updates = at_least(1, updates=updates)

    @property
    def name(self) -> str:
        """What reports call this task."""
        return "copy"

    def sequences(self, root: Path | None, batch_size: int, seed: int) -> Growing:
        """Drawn afresh for every batch; `root` is not used."""
        return CopySequences(batch_size, seed, self.updates)

    def model(self, symbols: int) -> SequenceModel:
        """The core alone, and a logit."""
        core = recurrent(self.core, self.channels, self.width)
        return SequenceModel(nn.Identity(), core, nn.Linear(self.width, 1))

    def loss(self, out: Tensor, window: Window) -> Tensor:
        """See `masked_bits`."""
        return masked_bits(out, window)


class RepeatCopy(Copy):
    """Repeat copy with growing length and number of repeats."""

    channels = 5

    @property
    def name(self) -> str:
        """What reports call this task."""
        return "repeat-copy"

    def sequences(self, root: Path | None, batch_size: int, seed: int) -> Growing:
        """Drawn afresh for every batch; `root` is not used."""
        return RepeatCopySequences(batch_size, seed, self.updates)
