"""Jobs whose stages are killed and started again while the others go on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from launch.config.train import TrainConfig
from launch.job.recovery_session import supervise
from tests.support.damage import flip_a_bit
from tests.support.forks import Job
from tests.support.jobs import descendants, shared_memory
from tests.support.raising_tasks import Bomb
from tests.support.tiny_task import Tiny, five_layers
from tests.support.waiting import until
from workers.checkpoint.store import CheckpointStore
from workers.failure.rank_runner import RankRunner

EPOCHS, STEPS = 3, 4
"""Of the jobs here: an epoch has 50 samples, its test set 20, in two batches."""
CUTS = {2: "2", 3: "1,3"}
LAST_LAYER = {2: (1, 4), 3: (0, 2, 4)}
"""Of each stage."""


class Bombed(Tiny):
    """With bombs in every stage: at a training batch, and in the middle of an evaluation."""

    def __init__(self, stages: int, folder: Path) -> None:
        super().__init__()
        self.stages, self.folder = stages, folder

    def layers(self) -> list[nn.Module]:
        layers = five_layers()
        for stage, at in enumerate(LAST_LAYER[self.stages]):
            bombs = [
                Bomb(3 + stage, self.folder / f"training-{stage}"),
                Bomb(2, self.folder / f"evaluation-{stage}", training=False),
            ]
            layers[at] = nn.Sequential(*bombs, layers[at])
        return layers


def config(**settings: Any) -> TrainConfig:
    chosen = {"batch_size": 16, "epochs": EPOCHS, "checkpoint_every": 2, "out": "set by the job"}
    return TrainConfig.of(**{"supervise": True, "stage_restarts": 2} | chosen | settings)


def summary_of(job: Job) -> dict[str, Any]:
    return json.loads((job.out / "summary.json").read_text())


@pytest.mark.parametrize("rule", ["cdni", pytest.param("local", marks=pytest.mark.slow)])
@pytest.mark.parametrize("stages", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_stages_that_are_killed_in_training_and_in_evaluation_lose_no_sample(
    tmp_path: Path, stages: int, rule: str
) -> None:
    before = shared_memory()
    with Job(config(rule=rule, cut=CUTS[stages]), Bombed(stages, tmp_path), stages, tmp_path) as job:
        assert job.statuses() == [0] * stages, job.lines()
        told = [line for line in job.lines() if "was killed" in line]
    assert len(list(tmp_path.glob("*-?"))) == 2 * stages + stages  # bombs, and what ranks wrote to stderr
    for stage in range(stages):
        mine = [line for line in told if f"stage {stage} (rank {stage}) was killed by SIGKILL" in line]
        assert [line.rpartition("; ")[2] for line in mine] == ["restart 1 of 2", "restart 2 of 2"]
    summary = summary_of(job)
    assert [stage["restarts"] for stage in summary["stages"]] == [2] * stages
    assert all(stage["lost_updates"] > 0 for stage in summary["stages"])
    assert [stage["steps"] for stage in summary["stages"]] == [EPOCHS * STEPS] * stages
    assert [stage["samples"] for stage in summary["stages"]] == [EPOCHS * 50] * stages
    assert [stage["version"] for stage in summary["stages"]] == [EPOCHS * STEPS] * stages
    targets = 0 if rule == "local" else EPOCHS * STEPS
    assert [stage["targets_received"] for stage in summary["stages"]] == [targets] * (stages - 1) + [0]
    assert [(e["epoch"], e["step"], e["trained"], e["tested"]) for e in summary["evaluations"]] == [
        (epoch, epoch * STEPS, 50, 20) for epoch in (1, 2, 3)
    ]
    lines = [json.loads(line) for line in (job.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "epoch"] == [4, 8, 12]
    again = f"stages that died and were started again: {2 * stages};"
    assert any(note.startswith(again) for note in summary["notes"])
    assert CheckpointStore(job.out).steps()[-1] == EPOCHS * STEPS
    assert shared_memory() == before


class Watched(Tiny):
    """Writes down which processes ask for GPUs, from when a rank has it: before its supervisor begins."""

    def __init__(self, asked: Path) -> None:
        super().__init__()
        self.asked = asked

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in ("is_available", "device_count", "_lazy_init", "init"):
            setattr(torch.cuda, name, partial(self._ask, getattr(torch.cuda, name)))

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        with open(self.asked, "a") as file:
            file.write(f"{os.getpid()}\n")
        return call(*arguments)


def test_a_supervisor_asks_for_no_gpu(tmp_path: Path) -> None:
    """CUDA that was initialised before a fork cannot be used behind it."""
    task = Watched(tmp_path / "asked")
    with Job(config(cut="2", epochs=1), task, 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
        supervisors = {str(rank.pid) for rank in job.ranks}
    askers = set(task.asked.read_text().split())
    assert askers and not askers & supervisors  # the stage that writes the summary asks for GPUs


def test_a_stage_that_dies_in_a_resumed_run_loads_no_checkpoint_that_was_refused(tmp_path: Path) -> None:
    """That of step 12 is damaged in stage 1 only. The other stages would take it for the newest."""
    with Job(config(cut="1,3", checkpoint_every=3), Tiny(), 3, tmp_path) as job:
        assert job.statuses() == [0] * 3, job.lines()
    checkpoints = CheckpointStore(job.out)
    flip_a_bit(checkpoints.folder / "step-00000012" / "stage-1.safetensors")
    resumed = config(cut="1,3", checkpoint_every=0, resume=True)
    kill = {"DNI_ASYNC_INJECT": "kill@0:11", "DNI_ASYNC_INJECTED": str(tmp_path)}
    with Job(resumed, Tiny(), 3, tmp_path, **kill) as job:
        assert job.statuses() == [0] * 3, job.lines()
    summary = summary_of(job)
    assert summary["checkpoints"]["resumed_at"] == 9
    assert [stage["steps"] for stage in summary["stages"]] == [EPOCHS * STEPS] * 3
    assert [stage["restarts"] for stage in summary["stages"]] == [1, 0, 0]
    assert summary["stages"][0]["lost_updates"] == 2  # those of steps 9 and 10
    assert checkpoints.steps() == [9, 12]
    assert (checkpoints.folder / "step-00000012.refused").is_dir()


class DiesAtTheEnd(nn.Module):
    """Kills its process the second time that its weights are written: after the checkpoint, at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 2

    def forward(self, x: Tensor) -> Tensor:
        return x

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class TinyThatDiesAtTheEnd(Tiny):
    def layers(self) -> list[nn.Module]:
        layers = five_layers()
        layers[-1] = nn.Sequential(DiesAtTheEnd(), layers[-1])
        return layers


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_stage_that_dies_when_its_neighbour_has_ended_writes_its_results(
    tmp_path: Path, transport: str
) -> None:
    settings = config(cut="2", epochs=1, checkpoint_every=0, timeout=5.0, transport=transport)
    with Job(settings, TinyThatDiesAtTheEnd(), 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
        (line,) = job.lines()
    assert "stage 1 (rank 1) was killed by SIGKILL, 4 steps done; restart 1 of 2" in line
    assert (job.out / "weights" / "stage-1.safetensors").exists()


def test_a_stage_that_dies_more_often_than_allowed_ends_the_job(tmp_path: Path) -> None:
    with Job(config(stage_restarts=1, cut="1,3"), Bombed(3, tmp_path), 3, tmp_path) as job:
        statuses = job.statuses()
        assert set(statuses) == {1}, statuses
        lines = [line for line in job.lines() if "restart 1 of 1" not in line]
    (line,) = [line for line in lines if "could not be written" not in line]
    assert "was killed by SIGKILL" in line
    assert line.endswith("it was started again 1 times, as often as --stage-restarts says")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_supervisor_ends_the_job_and_leaves_nothing(tmp_path: Path, victim: int) -> None:
    with Job(config(epochs=100_000, checkpoint_every=0, cut="2"), Tiny(), 2, tmp_path) as job:
        job.wait_until_it_trains()
        pids = [rank.pid for rank in job.ranks]
        family = [process for pid in pids for process in descendants(pid or 0)]
        assert len(family) == 2
        job.ranks[victim].kill()
        statuses = job.statuses()
        until(lambda: not any(runs(process) for process in family), 5, "the end of all")
    assert sorted(statuses) == [-signal.SIGKILL, 1]
    (line,) = job.lines()
    assert f"stage {victim} (rank {victim}) is gone" in line


def runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_without_a_launcher_there_is_no_store_to_outlive_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with pytest.raises(UserError, match="supervise needs a job of two stages or more"):
        supervise(RankRunner(), config(), lambda runner, stable: None)
