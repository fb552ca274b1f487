"""One run at a time in an output folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dni_async.errors import UserError
from launch.config.train import TrainConfig
from launch.job.run_lock import RunLock
from tests.support.forks import Job, context
from tests.support.jobs import kill
from tests.support.tiny_task import Tiny
from tests.support.waiting import until


def test_a_second_run_in_the_folder_is_refused_with_the_holder(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(UserError) as error:
        RunLock(tmp_path)
    assert str(error.value) == (
        f"another run is writing to {tmp_path} (pid {os.getpid()} on {socket.gethostname()}); wait for its "
        "end, or choose another --out"
    )


def test_the_folder_is_free_after_the_run(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path):
            pass


def _hold(folder: Path) -> None:
    RunLock(folder)
    (folder / "held").touch()
    while True:
        os.sched_yield()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = context().Process(target=_hold, args=(tmp_path,))
    process.start()
    try:
        until((tmp_path / "held").exists, 60, "the lock")
        with pytest.raises(UserError, match=f"pid {process.pid} on "):
            RunLock(tmp_path)
    finally:
        kill(process.pid or 0)
        process.join()
    with RunLock(tmp_path):
        assert (tmp_path / "run.lock").read_text() == f"pid {os.getpid()} on {socket.gethostname()}\n"


def test_a_job_in_a_folder_in_use_ends_in_one_line_on_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with RunLock(tmp_path / "run"), Job(TrainConfig.of(batch_size=16, cut="2"), Tiny(), 2, tmp_path) as job:
        assert job.statuses() == [2, 2]
    (line,) = job.lines()
    assert f"another run is writing to {job.out} (pid {os.getpid()} on " in line


def test_a_run_leaves_no_weights_of_an_earlier_run_with_more_stages(tmp_path: Path) -> None:
    weights = tmp_path / "run" / "weights"
    weights.mkdir(parents=True)
    (weights / "stage-2.safetensors").touch()
    with Job(TrainConfig.of(batch_size=16, epochs=1, cut="2"), Tiny(), 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    assert sorted(path.name for path in weights.iterdir()) == ["stage-0.safetensors", "stage-1.safetensors"]
