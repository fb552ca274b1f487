"""--log wandb: Weights & Biases, in project `dni_async`; its own environment variables say the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from launch.loggers.base import LoggedRun, Logger


class WandbLogger(Logger):
    """Sends numbers to Weights & Biases; offline with WANDB_MODE=offline."""

    def __init__(self, run: LoggedRun) -> None:
        super().__init__(run)
        import wandb  # seconds that others do not need

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dni_async"),
            name=run.name,
            dir=None if run.out is None else str(run.out),
            config=dict(run.settings),
            settings=wandb.Settings(silent=True, console="off"),
        )

    @override
    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    @override
    def close(self) -> None:
        self._run.finish()
