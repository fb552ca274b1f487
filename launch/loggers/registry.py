"""Loggers by name, and a user's own as a dotted path."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dni_async.errors import UserError
from dni_async.plugins import find_class
from launch.loggers.base import Logger

LOGGERS: Mapping[str, str] = MappingProxyType(
    {
        "csv": "launch.loggers.csv_file:CsvLogger",
        "tensorboard": "launch.loggers.tensorboard:TensorBoardLogger",
        "wandb": "launch.loggers.wandb:WandbLogger",
        "trackio": "launch.loggers.trackio:TrackioLogger",
    }
)
"""Names and the classes behind them, imported only when asked for."""
PACKAGES = ("tensorboard", "wandb", "trackio")
"""Loggers that need the package of their name, which the extra of this name installs."""


def find_logger(name: str) -> type[Logger]:
    """Return the class of a logger. Raises UserError if there is none, or its package is not installed."""
    if name in PACKAGES and importlib.util.find_spec(name) is None:
        raise UserError(
            f"log {name} needs the package {name}, which is not installed; pip install 'dni-async[{name}]'"
        )
    advice = f"; use one of {', '.join(LOGGERS)}, or your own as my_package.my_module:MyLogger"
    return find_class(name, LOGGERS, "logger", Logger, advice=advice)  # type: ignore[type-abstract]


def check_loggers(names: Sequence[str], out: str) -> None:
    """Raise UserError unless the loggers are known, installed, and have a folder if they need one."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"log has {name} twice; name it once")
        if find_logger(name).needs_out and not out:
            raise UserError(f"log {name} writes to the folder of the run; give one with --out")
