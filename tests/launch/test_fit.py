"""Training from Python."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dni_async.errors import StageError, UserError
from launch import fit as fit_module
from launch.config.train import TrainConfig
from launch.fit import fit, one_job_at_a_time
from tasks.vision.digits import DigitsFcn
from tests.support.jobs import ROOT

TASK = """
from tests.support.tiny_task import Tiny, plain_layers

class Mine(Tiny):
    def __init__(self):
        super().__init__(plain_layers)
"""
SCRIPT = """
from task_beside_the_script import Mine
from launch.fit import fit

print(len(fit(Mine(), stages=2, cut="2", epochs=1, batch_size=16).summary["stages"]))
"""


def test_callbacks_run_in_the_thread_that_trains_without_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook: this process may have threads, and may have initialised CUDA, which a fork breaks."""
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("this process was forked"))
    heard: list[tuple[str, Any, str]] = []

    def hear(name: str, key: str) -> Callable[[dict[str, Any]], None]:
        return lambda record: heard.append((name, record[key], threading.current_thread().name))

    def confident(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(1).max(1).values.mean()

    def train() -> None:
        done = fit(
            DigitsFcn(depth=2, width=16),
            stages=0,
            epochs=2,
            evaluations=2,
            batch_size=64,
            metrics={"confidence": confident},
            on_evaluation=hear("evaluation", "test_confidence"),
            on_epoch=hear("epoch", "epoch"),
        )
        heard.append(("end", done.summary["final"]["test_confidence"], ""))
        assert done.summary["settings"]["task"] == "digits-fcn"
        assert {"depth=2", "width=16"} <= set(done.summary["settings"]["task_args"])
        assert len(done.summary["stages"]) == 1
        assert done.model(torch.zeros(3, 784)).shape == (3, 10)

    thread = threading.Thread(target=train, name="a thread")
    thread.start()
    thread.join(90)
    assert [name for name, *_ in heard] == ["evaluation", "evaluation", "epoch"] * 2 + ["end"]
    assert {name for *_, name in heard[:-1]} == {"a thread"}
    assert 0.1 < heard[-2 - 1][1] <= 1 and heard[-1][1] == heard[-3][1]


def test_input_that_is_wrong_is_one_line() -> None:
    for arguments, line in (
        ({}, "no task given; give one, or a config that names one"),
        ({"task": "digits-fcn", "metrics": {"a b": len}}, "metric has the name 'a b'; choose another"),
        ({"task": "digits-fcn", "metrics": {"accuracy": len}}, "metric has the name 'accuracy'"),
        ({"task": "digits-fcn", "metrics": {"one": 1}}, "metric one is 1; give a function of outputs and"),
        ({"task": "digits-fcn", "lr": "abc"}, "lr is 'abc'; it must be a number"),
        ({"task": "digits-fcn", "lr": None}, "lr is None; it must be a number"),
        ({"task": "digits-fcn", "log": "abc"}, "unknown logger (abc)"),
        ({"task": DigitsFcn(), "task_args": ["depth=3"]}, "task_args is ['depth=3']; give the settings to"),
        ({"config": TrainConfig.of(task="digits-fcn"), "task_args": ["depth=0"]}, "depth is 0"),
        ({"config": "/nothing.yaml"}, "cannot read /nothing.yaml (No such file or directory)"),
    ):
        with pytest.raises(UserError) as error:
            fit(**arguments)
        assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_what_is_not_given_is_that_of_the_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[TrainConfig] = []

    def start(config: TrainConfig, *_: Any, **__: Any) -> None:
        started.append(config)
        raise UserError("started")

    monkeypatch.setattr(fit_module, "run_local", start)
    config = TrainConfig.of(task="digits-fcn", task_args=("depth=2",), out=str(tmp_path / "a"))
    given: dict[str, Any]
    for given, args, out in (
        ({}, ("depth=2",), "a"),
        ({"task": "digits-fcn"}, ("depth=2",), "a"),
        ({"task": "mnist-fcn"}, (), "a"),
        ({"task_args": ["depth=3", "width=8"]}, ("depth=3", "width=8"), "a"),
        ({"task_args": "depth=4"}, ("depth=4",), "a"),
        ({"out": tmp_path / "b"}, ("depth=2",), "b"),
    ):
        with pytest.raises(UserError, match="started"):
            fit(config=config, **given)
        assert (started[-1].task.task_args, started[-1].output.out) == (args, str(tmp_path / out)), given


def test_two_threads_do_not_train_at_once(tmp_path: Path) -> None:
    with one_job_at_a_time(tmp_path), pytest.raises(UserError, match="another thread of this process trains"):
        fit("digits-fcn", epochs=1)


NOTEBOOK = """
import threading
import torch
from tests.support.tiny_task import Tiny, plain_layers
from launch.fit import fit
from launch.train import TrainConfig

class Mine(Tiny):
    def __init__(self):
        super().__init__(plain_layers)

config = TrainConfig.of(stages=2, cut="2", epochs=2, batch_size=16)
first = fit(Mine(), config=config)
shown = []

def again():
    shown.append(fit(Mine(), config=config, epochs=1, on_epoch=shown.append))

thread = threading.Thread(target=again)
thread.start()
thread.join()
print(len(first.summary["epochs"]), shown[0]["epoch"], len(shown[1].summary["stages"]))
try:
    fit(Mine(), config=config, epochs=1000000, on_step=lambda record: {}["an error of the callback"])
except KeyError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_notebook_trains_twice_and_from_a_thread_and_its_errors_come_back() -> None:
    """A program from stdin has no file that ranks could import, as that of a notebook."""
    done = subprocess.run(
        [sys.executable, "-"],
        input=NOTEBOOK,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stdout) == (0, "2 1 2\n'an error of the callback'\n"), done.stderr


def test_ranks_import_a_task_that_lies_beside_the_script(tmp_path: Path) -> None:
    """From another working folder, in which a folder is called like a package of the project."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "elsewhere" / "tasks").mkdir(parents=True)
    (tmp_path / "scripts" / "task_beside_the_script.py").write_text(TASK)
    (tmp_path / "scripts" / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scripts" / "script.py")],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


FAILING = """
from task_beside_the_script import Mine
from launch.fit import fit

class Wrong(Mine):
    def layers(self):
        return [{}["dim"]]

fit(Wrong(), stages=2, cut="2", epochs=1, batch_size=16)
"""


@pytest.mark.slow
def test_an_error_in_the_users_script_is_shown_with_its_place_and_the_traceback_of_the_rank(
    tmp_path: Path,
) -> None:
    (tmp_path / "task_beside_the_script.py").write_text(TASK)
    (tmp_path / "script.py").write_text(FAILING)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    line = "rank 0, before the first step: KeyError: 'dim' (script.py:7 in layers())"
    assert done.stderr.splitlines()[0] == f"dni-async: {line}"
    assert done.stderr.splitlines()[-1] == f"{StageError.__module__}.StageError: {line}"
    assert "broadcast_plan" in done.stderr
