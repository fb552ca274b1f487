"""All loggers of a run get its numbers, and one that fails stops nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from dni_async.errors import UserError
from launch.loggers.base import LoggedRun, Logger
from launch.loggers.fan_out import Loggers


class Kept(Logger):
    """Remembers what it got."""

    calls: list[tuple[int, Mapping[str, float]]]

    def __init__(self, run: LoggedRun) -> None:
        super().__init__(run)
        Kept.calls = []

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self.calls.append((step, scalars))

    def close(self) -> None:
        self.calls.append((-1, {}))


class Broken(Kept):
    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        raise OSError("the network is away")


class Refusing(Kept):
    def __init__(self, run: LoggedRun) -> None:
        raise RuntimeError("no key\nfor this")


def path(cls: type) -> str:
    return f"{__name__}:{cls.__name__}"


def test_a_logger_that_fails_is_left_out_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loggers = Loggers([path(Broken), path(Kept)], LoggedRun("a run", tmp_path))
    loggers.log(3, {"kind": "report", "loss": 0.5}, [{"index": 0, "utilisation": 1.0}])
    loggers.log(4, {"loss": 0.25})
    loggers.close()
    loggers.close()
    assert Kept.calls == [(3, {"loss": 0.5, "stage_0/utilisation": 1.0}), (4, {"loss": 0.25}), (-1, {})]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"dni-async: log {path(Broken)} failed and is left out from now on (OSError: the network is away)"
    ]


def test_a_logger_that_cannot_start_is_one_line() -> None:
    with pytest.raises(UserError) as error:
        Loggers([path(Refusing)], LoggedRun("a run", None))
    assert str(error.value) == (
        f"log {path(Refusing)} cannot be started (RuntimeError: no key for this); mend this, or leave it out"
    )
