"""All loggers of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dni_async.errors import UserError
from dni_async.plugins import describe
from launch.loggers.base import LoggedRun, Logger
from launch.loggers.registry import find_logger
from launch.loggers.scalars import scalars_of


class Loggers:
    """Passes records on to several loggers. One that fails is left out from then on, and a line says so.

    Raises:
        UserError: a logger cannot be started.
    """

    def __init__(self, names: Sequence[str], run: LoggedRun) -> None:
        self._loggers: dict[str, Logger] = {}
        for name in names:
            logger = find_logger(name)
            try:
                self._loggers[name] = logger(run)
            except Exception as error:
                raise UserError(
                    f"log {name} cannot be started ({describe(error)[:200]}); mend this, or leave it out"
                ) from error

    def log(self, step: int, record: Mapping[str, Any], stages: Sequence[Mapping[str, Any]] = ()) -> None:
        """Pass on the numbers in a record of metrics.jsonl."""
        if self._loggers:
            scalars = scalars_of(record, stages)
            self._each(lambda logger: logger.log(step, scalars))

    def close(self) -> None:
        """Close all loggers; a second call does nothing."""
        self._each(lambda logger: logger.close())
        self._loggers.clear()

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:
                del self._loggers[name]
                line = f"log {name} failed and is left out from now on ({describe(error)[:200]})"
                print(f"dni-async: {line}", file=sys.stderr, flush=True)
