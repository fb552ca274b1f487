"""A layer that kills its process, for jobs that are to go on all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from torch import Tensor, nn


class Bomb(nn.Module):
    """Kills its process at its n-th batch in training (or in evaluation), unless `defused` is there: once."""

    def __init__(self, batches: int, defused: Path, training: bool = True) -> None:
        super().__init__()
        self.left, self.defused, self.when = batches, defused, training

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training == self.when
        if self.left == 0 and not self.defused.exists():
            self.defused.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x
