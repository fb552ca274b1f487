"""All loggers of a run get its numbers, and one that fails stops nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from dni_async.errors import UserError
from launch.loggers import logger_thread
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


class Blocked(Kept):
    """Does not return before the test lets it."""

    entered = threading.Event()
    go_on = threading.Event()

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self.entered.set()
        self.go_on.wait(30)
        super().log(step, scalars)


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


def test_a_logger_that_blocks_delays_neither_training_nor_the_end_of_a_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger_thread, "_MOST", 2)
    loggers = Loggers([path(Blocked)], LoggedRun("a run", None))
    for step in range(6):
        loggers.log(step, {"loss": 0.5})
        assert Blocked.entered.wait(30)
    loggers.close(timeout=0.01)
    loggers.close()
    assert capsys.readouterr().err.splitlines() == [
        f"dni-async: log {path(Blocked)} is 2 records behind; until it is faster it does not get all of them",
        f"dni-async: log {path(Blocked)} did not finish in time; it may lack the last numbers",
    ]
    [thread] = [thread for thread in threading.enumerate() if thread.name == f"log {path(Blocked)}"]
    Blocked.go_on.set()
    thread.join(30)
    assert [step for step, _ in Blocked.calls] == [0, 1, 2, -1]
