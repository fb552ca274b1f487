"""What tensorboard, wandb and trackio are called with, where they are not installed, too."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from launch.loggers.base import LoggedRun
from launch.loggers.tensorboard import TensorBoardLogger
from launch.loggers.trackio import TrackioLogger
from launch.loggers.wandb import WandbLogger

Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]


class Recorded:
    """Takes any call, and remembers it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Recorded:
            self._calls.append((name, arguments, keywords))
            return self

        return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made: Calls = []
    for name in ("wandb", "trackio", "torch.utils.tensorboard"):
        module = ModuleType(name)
        module.__getattr__ = Recorded(made).__getattr__  # type: ignore[method-assign]
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_tensorboard_gets_all_numbers_of_a_step_in_one_event(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Summary(SimpleNamespace):
        Value = SimpleNamespace

    class Writer(Recorded):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(calls)
            calls.append(("SummaryWriter", arguments, keywords))
            self.file_writer = Recorded(calls)

    proto = "tensorboard.compat.proto.summary_pb2"
    monkeypatch.setitem(sys.modules, proto, SimpleNamespace(Summary=Summary))  # type: ignore[arg-type]
    monkeypatch.setattr(sys.modules["torch.utils.tensorboard"], "SummaryWriter", Writer, raising=False)
    logger = TensorBoardLogger(LoggedRun("a run", tmp_path, start=5))
    logger.log(7, {"loss": 0.5, "stage_0/utilisation": 1.0})
    logger.close()
    values = [
        SimpleNamespace(tag="loss", simple_value=0.5),
        SimpleNamespace(tag="stage_0/utilisation", simple_value=1.0),
    ]
    assert calls == [
        ("SummaryWriter", (str(tmp_path / "tensorboard"),), {"purge_step": 6}),
        ("add_summary", (Summary(value=values), 7), {}),
        ("close", (), {}),
    ]


def test_wandb_gets_the_settings_and_all_numbers_of_a_step_at_once(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    logger = WandbLogger(LoggedRun("a run", tmp_path, {"lr": 0.1}))
    logger.log(7, {"loss": 0.5})
    logger.close()
    named = {name: keywords for name, _, keywords in calls}
    about = {"project": "dni_async", "name": "a run", "dir": str(tmp_path), "config": {"lr": 0.1}}
    assert about.items() <= named["init"].items()
    assert [call for call in calls if call[0] in ("log", "finish")] == [
        ("log", ({"loss": 0.5},), {"step": 7}),
        ("finish", (), {}),
    ]


def test_trackio_gets_the_settings_and_all_numbers_of_a_step_at_once(calls: Calls) -> None:
    logger = TrackioLogger(LoggedRun("a run", None, {"lr": 0.1}))
    logger.log(7, {"loss": 0.5})
    logger.close()
    assert calls == [
        ("init", (), {"project": "dni_async", "name": "a run", "config": {"lr": 0.1}}),
        ("log", ({"loss": 0.5},), {"step": 7}),
        ("finish", (), {}),
    ]


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(LoggedRun("a run", tmp_path))
    logger.log(7, {"loss": 0.5})
    logger.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (event,) = events.Scalars("loss")
    assert (event.step, event.value) == (7, 0.5)
