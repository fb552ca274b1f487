"""--log trackio: project `dni_async` of trackio, which keeps its records on this machine: `trackio show`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from typing_extensions import override

from launch.loggers.base import LoggedRun, Logger


class TrackioLogger(Logger):
    """Gives numbers to trackio."""

    def __init__(self, run: LoggedRun) -> None:
        super().__init__(run)
        import trackio  # seconds that others do not need

        self._trackio: Any = trackio
        with redirect_stdout(io.StringIO()):
            trackio.init(project="dni_async", name=run.name, config=dict(run.settings))

    @override
    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._trackio.log(dict(scalars), step=step)

    @override
    def close(self) -> None:
        with redirect_stdout(io.StringIO()):
            self._trackio.finish()
