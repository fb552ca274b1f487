"""Copy and repeat copy (Graves et al. 2014), with sequences that grow as they are learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dni_async.checks import at_least
from tasks.sequence.base import SequenceModel, SequenceTask, Window, recurrent
from tasks.sequence.curriculum import GrowingSequences


class CopySequences(GrowingSequences):
    """L bits to be reproduced after the end sign.

    ```
    step      0      1 .. L   L + 1   L + 2 .. 2L + 1
    x         start  bits     end     nothing            channels: bit is 0, bit is 1, start, end
    y         -      -        -       bits
    ```
    """

    length = 1

    @override
    def grow(self) -> None:
        self.length += 1

    @override
    def draw(self) -> Window:
        return sequence(self.bits(self.length), 1, torch.zeros(self.batch_size, 0))


class RepeatCopySequences(GrowingSequences):
    """As `CopySequences`, with R repetitions; the end sign has a further channel with R / 10.

    Length and repeats grow in turn: 1 x 1, 2 x 1, 2 x 2, 3 x 2 ... The length solved is their product.
    """

    bits_once = repeats = 1

    @property
    @override
    def length(self) -> int:
        return self.bits_once * self.repeats

    @override
    def grow(self) -> None:
        if self.bits_once > self.repeats:
            self.repeats += 1
        else:
            self.bits_once += 1

    @override
    def draw(self) -> Window:
        repeats = torch.full((self.batch_size, 1), self.repeats / 10)
        return sequence(self.bits(self.bits_once), self.repeats, repeats)

    @override
    def progress(self) -> dict[str, Any]:
        return super().progress() | {"length_now": self.bits_once, "repeats_now": self.repeats}


def sequence(bits: Tensor, repeats: int, at_end: Tensor) -> Window:
    """Return whole sequences of 2 + L + R L steps.

    Args:
        bits: (B, L), to be reproduced `repeats` (R) times.
        at_end: (B, K), the further channels of x at the end sign.
    """
    rows, length = bits.shape
    steps = 2 + length + repeats * length
    x = torch.zeros(rows, steps, 4 + at_end.shape[1])
    x[:, 0, 2] = x[:, length + 1, 3] = 1.0
    x[:, 1 : length + 1, :2] = F.one_hot(bits, 2).float()
    x[:, length + 1, 4:] = at_end
    y = torch.zeros(rows, steps)
    y[:, length + 2 :] = bits.repeat(1, repeats)
    mask = torch.zeros(rows, steps)
    mask[:, length + 2 :] = 1.0
    return Window(x, y, mask, is_last=True)


class Copy(SequenceTask):
    """Copy with growing length (paper, section 3.2): the result is the longest length solved."""

    name = "copy"
    score_name = ""
    channels = 4

    def __init__(self, core: str = "lstm", width: int = 100, updates: int = 1000) -> None:
        """Core: lstm, gru or rnn; width: its units; updates: of an epoch."""
        self.core, self.width = core, at_least(1, width=width)
        self.updates = at_least(1, updates=updates)

    @override
    def sequences(self, root: Path | None, batch_size: int, seed: int) -> GrowingSequences:
        return CopySequences(batch_size, seed, self.updates)

    @override
    def model(self, symbols: int) -> SequenceModel:
        core = recurrent(self.core, self.channels, self.width)
        return SequenceModel(nn.Identity(), core, nn.Linear(self.width, 1))

    @override
    def loss(self, out: Tensor, window: Window) -> Tensor:
        """Return the cross-entropy (nats) of the bits: their sum over time, mean over the batch."""
        assert window.mask is not None
        each = F.binary_cross_entropy_with_logits(out.squeeze(2), window.y, reduction="none")
        return (each * window.mask).sum(1).mean()


class RepeatCopy(Copy):
    """Repeat copy with growing length and number of repeats."""

    name = "repeat-copy"
    channels = 5

    @override
    def sequences(self, root: Path | None, batch_size: int, seed: int) -> GrowingSequences:
        return RepeatCopySequences(batch_size, seed, self.updates)
