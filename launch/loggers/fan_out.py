"""All loggers of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from dni_async.errors import UserError
from dni_async.plugins import describe
from launch.loggers.base import LoggedRun
from launch.loggers.logger_thread import CLOSE_TIMEOUT_S, LoggerThread
from launch.loggers.registry import find_logger
from launch.loggers.scalars import scalars_of


class Loggers:
    """Passes records on to several loggers. One that fails is left out from then on, and a line says so; one
    that blocks does not block training.

    Raises:
        UserError: a logger cannot be started.
    """

    def __init__(self, names: Sequence[str], run: LoggedRun) -> None:
        self._loggers: list[LoggerThread] = []
        for name in names:
            logger = find_logger(name)
            try:
                self._loggers.append(LoggerThread(name, logger, run))
            except Exception as error:
                raise UserError(
                    f"log {name} cannot be started ({describe(error)[:200]}); mend this, or leave it out"
                ) from error

    def log(self, step: int, record: Mapping[str, Any], stages: Sequence[Mapping[str, Any]] = ()) -> None:
        """Pass on the numbers in a record of metrics.jsonl."""
        if self._loggers:
            scalars = scalars_of(record, stages)
            for logger in self._loggers:
                logger.log(step, scalars)

    def close(self, timeout: float = CLOSE_TIMEOUT_S) -> None:
        """Close all loggers, and wait for them together for at most so many seconds; a second call does
        nothing."""
        end = time.monotonic() + timeout
        for logger in self._loggers:
            logger.close()
        for logger in self._loggers:
            logger.join(end)
        self._loggers.clear()
