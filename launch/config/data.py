"""How the data of a task are read."""

from __future__ import annotations

from dataclasses import dataclass

from launch.config.checks import at_least
from launch.config.flat import Group


@dataclass(kw_only=True, slots=True)
class DataConfig(Group):
    """How the data are read."""

    steps_per_epoch: int = 0
    """Batches of an epoch; 0: the whole training set. Needed where that has no length."""
    loader_workers: int = 0
    """Processes that read and collate samples ahead; 0: the process that trains reads them itself."""
    prefetch: int = 2
    """Batches that each of them reads ahead."""

    def __post_init__(self) -> None:
        at_least(0, steps_per_epoch=self.steps_per_epoch, loader_workers=self.loader_workers)
        at_least(1, prefetch=self.prefetch)
