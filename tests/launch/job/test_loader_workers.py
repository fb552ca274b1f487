"""Jobs whose data are read by workers: they keep stage 0 busy, and end with it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from launch.config.train import TrainConfig
from launch.report.weights import load_all
from tests.support.forks import Job
from tests.support.resumable_jobs import equal
from tests.support.tiny_task import CLASSES, FEATURES, Tiny, plain_layers
from tests.support.waiting import until

DEADLINE_S = 30.0
SLOW = pytest.mark.slow


class Samples(Dataset[Any]):
    """Samples that take a while to read."""

    def __init__(self, count: int, seconds: float = 0.0, bad: int = -1) -> None:
        self.count, self.seconds, self.bad = count, seconds, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(self.seconds)
        if index == self.bad:
            {}["dim"]
        return torch.rand(FEATURES) + index % CLASSES, index % CLASSES


class Read(Tiny):
    """A task whose samples have to be read."""

    def __init__(self, seconds: float = 0.0, bad: int = -1, pause: float = 0.0, count: int = 320) -> None:
        super().__init__(plain_layers)
        self.samples = Samples(count, seconds, bad)
        self.pause = pause

    def layers(self) -> list[nn.Module]:
        first, *others = super().layers()
        return [nn.Sequential(first, Pause(self.pause)), *others]

    def data(self, root: Path | None = None) -> Any:
        return self.samples, Samples(32)


class Pause(nn.Module):
    """A device that computes for a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds if self.training else 0)
        return x


def config(**settings: Any) -> TrainConfig:
    return TrainConfig.of(
        **{"out": "set by the job", "batch_size": 16, "epochs": 1, "cut": "1", "loader_workers": 2} | settings
    )


def workers_of(job: Job) -> list[psutil.Process]:
    found: list[psutil.Process] = []

    def are_there() -> bool:
        found[:] = psutil.Process(job.ranks[0].pid).children()
        return len(found) >= 2

    until(are_there, DEADLINE_S, "the start of the workers")
    return found


def are_gone(workers: list[psutil.Process]) -> bool:
    return not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def test_workers_of_a_killed_stage_end_with_it_and_its_neighbour_notices(tmp_path: Path) -> None:
    with Job(config(epochs=10_000), Read(), 2, tmp_path) as job:
        job.wait_until_it_trains()
        workers = workers_of(job)
        job.ranks[0].kill()
        until(lambda: are_gone(workers), DEADLINE_S, "the end of the workers")
        assert job.statuses()[1] == 1
    (line,) = job.lines()
    assert line.startswith("dni-async: stage 0 (rank 0) is gone; stage 1 noticed ")


@SLOW
@pytest.mark.parametrize("engine", ["decoupled", "backprop", "ddp", "1f1b"])
def test_no_worker_outlives_a_job_that_ends_well(engine: str, tmp_path: Path) -> None:
    ranks = 1 if engine == "backprop" else 2
    cut = "1" if engine in ("decoupled", "1f1b") else ""
    with Job(config(epochs=15, engine=engine, cut=cut), Read(), ranks, tmp_path) as job:
        job.wait_until_it_trains()
        workers = workers_of(job)
        assert job.statuses() == [0] * ranks, job.lines()
        until(lambda: are_gone(workers), DEADLINE_S, "the end of the workers")
    summary = json.loads((job.out / "summary.json").read_text())
    assert [epoch["trained"] for epoch in summary["epochs"]] == [320] * 15


@SLOW
def test_workers_do_not_change_a_deterministic_run(tmp_path: Path) -> None:
    weights = []
    for workers in (1, 3, 3):
        folder = tmp_path / str(len(weights))
        with Job(config(epochs=2, deterministic=True, loader_workers=workers), Read(), 2, folder) as job:
            assert job.statuses() == [0, 0], job.lines()
        weights.append(load_all(job.out, 2))
    assert equal(weights[0], weights[1]) and equal(weights[1], weights[2])


@SLOW
def test_an_error_of_the_set_is_one_line_with_its_place_and_a_traceback(tmp_path: Path) -> None:
    with Job(config(), Read(bad=200), 2, tmp_path) as job:
        assert job.statuses() == [1, 1]
    (line,) = job.lines()
    assert line.startswith("dni-async: stage 0 (rank 0), ")
    assert line.endswith(" in __getitem__())") and "KeyError: 'dim' (tests/launch/job/test_loader" in line
    assert ", in __getitem__\n" in (job.out / "rank-0.log").read_text()


@SLOW
def test_a_killed_worker_ends_the_job_with_one_line(tmp_path: Path) -> None:
    with Job(config(epochs=10_000), Read(), 2, tmp_path) as job:
        job.wait_until_it_trains()
        workers_of(job)[0].kill()
        assert job.statuses() == [1, 1]
    (line,) = job.lines()
    assert line.startswith("dni-async: stage 0 (rank 0), ") and "exited unexpectedly" in line


@SLOW
def test_a_stage_whose_worker_was_killed_is_started_again_under_supervision(tmp_path: Path) -> None:
    settings = config(epochs=40, supervise=True, checkpoint_every=10)
    with Job(settings, Read(pause=0.005), 2, tmp_path) as job:
        job.wait_until_it_trains()
        stage = psutil.Process(job.ranks[0].pid).children()[0]
        until(lambda: len(stage.children()) >= 2, DEADLINE_S, "the start of the workers")
        stage.children()[0].kill()
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert [stage["restarts"] for stage in summary["stages"]] == [1, 0]
    assert [stage["samples"] for stage in summary["stages"]] == [40 * 320] * 2


@SLOW
def test_four_workers_keep_stage_0_busy_where_a_sample_takes_5_ms(tmp_path: Path) -> None:
    waits = []
    for workers in (0, 4):  # a batch takes 80 ms to read, 20 ms with 4 workers, and 40 ms to compute
        settings = config(loader_workers=workers)
        with Job(settings, Read(0.005, pause=0.04, count=960), 2, tmp_path / str(workers)) as job:
            assert job.statuses() == [0, 0], job.lines()
        timeline = json.loads((job.out / "timeline.json").read_text())["traceEvents"]
        spans = [event for event in timeline if event["ph"] == "X" and event["tid"] == 0]
        begin = min(event["ts"] for event in spans if event["args"]["step"] == 10)
        end = max(event["ts"] for event in spans if event["name"] == "update")
        waits.append(
            sum(span["dur"] for span in spans if span["name"] == "load" and begin < span["ts"] < end)
        )
        waits[-1] /= end - begin
    assert waits[0] > 0.5 and waits[1] < 0.15, waits
