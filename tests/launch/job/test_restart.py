"""Jobs that are started anew when a rank dies: where they go on, and what that has cost."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn

from dni_async.errors import UserError
from dni_async.networks.settings import SGConfig
from launch.config.train import TrainConfig
from launch.job.restart import BEGUN, begin, decide_start, with_checkpoints
from launch.report.weights import load_all
from tests.support.forks import Job
from tests.support.jobs import TINY, TORCHRUN, kill, our_lines, rank_processes, started
from tests.support.raising_tasks import Bomb
from tests.support.resumable_jobs import EPOCH_STEPS, SETTINGS, equal, trained
from tests.support.tiny_task import Tiny, data_of, five_layers
from tests.support.waiting import until
from workers.checkpoint.store import CheckpointStore
from workers.coordination.rendezvous import Rendezvous

LINEAR = SGConfig(kind="linear")
"""With the bomb in it the network is no chain of known layers, which would have another SG network."""


class Bombed(Tiny):
    """With a bomb in its middle stage."""

    def __init__(self, batches: int, defused: Path) -> None:
        super().__init__()
        self.batches, self.defused = batches, defused

    def layers(self) -> list[nn.Module]:
        layers = five_layers()
        return [*layers[:1], nn.Sequential(layers[1], Bomb(self.batches, self.defused)), *layers[2:]]


def config(**settings: Any) -> TrainConfig:
    own = {"out": "set by the job", "max_restarts": 2, "sg": LINEAR}
    return TrainConfig.of(**own | SETTINGS | settings)


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run left that nothing happened to; checkpoints of steps 9 and 12."""
    folder = tmp_path_factory.mktemp("whole")
    trained(folder, sg=LINEAR)
    return folder / "run"


@pytest.mark.parametrize(
    ("batches", "every"),
    [pytest.param(2, 3, marks=pytest.mark.slow), (8, 3), pytest.param(11, None, marks=pytest.mark.slow)],
    ids=["before the first checkpoint", "later", "with those of epochs only"],
)
def test_a_restarted_lockstep_run_equals_the_uninterrupted_run_to_the_bit(
    tmp_path: Path, whole: Path, batches: int, every: int | None
) -> None:
    """And says how many steps were lost, and nothing twice."""
    task, settings = Bombed(batches, tmp_path / "defused"), config(checkpoint_every=every)
    with Job(settings, task, 3, tmp_path) as first:
        assert set(first.statuses()) == {1, -signal.SIGKILL}
        (line,) = first.lines()
        assert "stage 1 (rank 1) is gone" in line
    reached = json.loads((first.out / "reached.json").read_text())["step"]
    kept = CheckpointStore(first.out).steps()
    with Job(settings, task, 3, tmp_path, before=first) as second:
        assert second.statuses() == [0, 0, 0], second.lines()
    assert equal(load_all(second.out, 3), load_all(whole, 3))
    summary = json.loads((second.out / "summary.json").read_text())
    start = kept[-1] if kept else 0
    assert reached > start
    assert summary["restarts"] == {"count": 1, "lost_steps": reached - start}
    assert summary["checkpoints"]["resumed_at"] == (start or None)
    assert f"restarts: 1; steps lost and trained again: {reached - start}" in summary["notes"]
    assert [stage["samples"] for stage in summary["stages"]] == [3 * 50] * 3
    assert [line["step"] for line in lines_of(second.out) if line["kind"] == "epoch"] == [4, 8, 12]
    assert CheckpointStore(second.out).steps()[-1] == 3 * EPOCH_STEPS


@pytest.mark.parametrize("transport", [pytest.param("dist", marks=pytest.mark.slow), "tcp", "rpc"])
def test_a_restart_does_not_depend_on_earlier_connections(tmp_path: Path, transport: str) -> None:
    """Whose addresses still stand in the launcher's store."""
    task, settings = (
        Bombed(6, tmp_path / "defused"),
        config(transport=transport, trust_network=True, timeout=20.0),
    )
    with Job(settings, task, 3, tmp_path) as first:
        assert -signal.SIGKILL in first.statuses()
    with Job(settings, task, 3, tmp_path, before=first) as second:
        assert second.statuses() == [0, 0, 0], second.lines()


def test_bad_input_is_refused_again_by_a_restart_and_not_printed_twice(tmp_path: Path) -> None:
    with Job(config(lr=1e30, optimizer="sgd"), Tiny(), 3, tmp_path) as first:
        assert 2 in first.statuses()
        assert len(first.lines()) == 1
    with Job(config(lr=1e30, optimizer="sgd"), Tiny(), 3, tmp_path, before=first) as second:
        assert second.statuses() == [2, 2, 2]
        assert second.lines() == []


class TestWhereToBegin:
    """What rank 0 decides."""

    def begin(
        self, folder: Path, rendezvous: Rendezvous, **settings: Any
    ) -> tuple[int, list[str], dict[str, int] | None]:
        """The step, the notes, and what the progress_file says."""
        task, chosen = Tiny(), with_checkpoints(config(**{"out": str(folder)} | settings), rendezvous)
        start = decide_start(chosen, task, data_of(task, chosen), rendezvous)
        begin(chosen, rendezvous, start)
        progress_file = json.loads((folder / "reached.json").read_text()) if start.progress_file else None
        return start.position.step, start.notes, progress_file

    @pytest.fixture
    def out(self, whole: Path, tmp_path: Path) -> Path:
        """Of a run that was killed one step beyond its checkpoint of step 9."""
        name = "checkpoints/step-00000009"
        shutil.copytree(whole / name, tmp_path / name)
        self.came_to(tmp_path, 10)
        return tmp_path

    def came_to(self, out: Path, step: int, lost_steps: int = 0) -> None:
        (out / "reached.json").write_text(json.dumps({"step": step, "lost_steps": lost_steps}))

    def job(self, restart: int, begun: bool = True, max_restarts: int = 3) -> Rendezvous:
        rendezvous = Rendezvous(0, 3, 0, 3, dist.HashStore(), dist.HashStore(), restart, max_restarts)
        if begun:
            replace(rendezvous, restart=restart - 1).publish_for_restart(BEGUN, True)
        return rendezvous

    def test_a_restart_goes_on_from_the_newest_checkpoint(self, out: Path) -> None:
        step, notes, progress_file = self.begin(out, self.job(1))
        assert (step, progress_file) == (9, {"step": 9, "lost_steps": 1})
        assert notes == ["restart 1 of 3, 1 steps lost so far", "resumed from the checkpoint of step 9"]

    def test_losses_add_up(self, out: Path) -> None:
        self.came_to(out, 11, 5)
        assert self.begin(out, self.job(2))[2] == {"step": 9, "lost_steps": 7}

    def test_what_a_launch_before_has_lost_does_not_count(self, out: Path) -> None:
        self.came_to(out, 11, 5)
        step, notes, progress_file = self.begin(out, self.job(0, begun=False), resume=True)
        assert (step, progress_file) == (9, {"step": 9, "lost_steps": 2})
        assert notes[0] == "2 steps were trained beyond the checkpoint and are lost"

    @pytest.mark.parametrize("restart", [0, 1])
    def test_checkpoints_of_an_earlier_run_are_left_alone(self, out: Path, restart: int) -> None:
        """Also by a job that is started anew and had died before it came so far."""
        with pytest.raises(UserError, match=r"a checkpoint of step 9 of an earlier run; go on .*--resume"):
            self.begin(out, self.job(restart, begun=False))

    def test_the_job_remembers_that_it_has_begun(self, tmp_path: Path) -> None:
        job = self.job(0, begun=False)
        assert self.begin(tmp_path, job) == (0, [], {"step": 0, "lost_steps": 0})
        assert replace(job, restart=1).read_before_restart(BEGUN)

    def test_a_job_that_dies_before_it_has_cleared_the_folder_does_not_go_on_from_an_earlier_run(
        self, out: Path
    ) -> None:
        task, job = Tiny(), self.job(0, begun=False)
        chosen = with_checkpoints(config(out=str(out), overwrite=True), job)
        decide_start(chosen, task, data_of(task, chosen), job)
        assert json.loads((out / "reached.json").read_text())["step"] == 10
        restarted = replace(job, restart=1)
        assert self.begin(out, restarted, overwrite=True)[0] == 0
        assert CheckpointStore(out).steps() == []

    def test_a_job_that_overwrites_goes_on_from_its_own_checkpoint(self, out: Path) -> None:
        assert self.begin(out, self.job(1), overwrite=True)[0] == 9

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"out": ""}, "there is no --out to keep checkpoints in"),
            ({"engine": "backprop"}, "backprop keeps no checkpoints"),
            ({"rule": "oracle"}, "oracle keeps no checkpoints"),
        ],
    )
    def test_where_none_can_be_kept_a_restart_begins_from_the_start_and_says_so(
        self, tmp_path: Path, settings: dict[str, Any], words: str
    ) -> None:
        self.came_to(tmp_path, 8)
        asked = {"max_restarts": 0, "checkpoint_every": None} | settings  # torchrun was asked
        step, notes, progress_file = self.begin(tmp_path, self.job(1), **asked)
        assert step == 0
        lost = "" if "out" in settings else ", 8 steps lost so far"
        assert notes == [f"restart 1 of 3{lost}", f"a restart begins from the start: {words}"]
        assert progress_file == (None if "out" in settings else {"step": 0, "lost_steps": 8})


@pytest.mark.parametrize(
    ("settings", "max_restarts", "every"),
    [
        ({"checkpoint_every": None}, 1, 0),
        ({"checkpoint_every": 7}, 1, 7),
        ({"checkpoint_every": None}, 0, None),
        ({"checkpoint_every": None, "engine": "ddp"}, 1, None),
    ],
)
def test_a_job_that_may_be_started_anew_keeps_checkpoints(
    settings: dict[str, Any], max_restarts: int, every: int | None
) -> None:
    alone = Rendezvous(0, 1, 0, 1, dist.HashStore(), max_restarts=max_restarts)
    assert (
        with_checkpoints(config(**{"max_restarts": 0} | settings), alone).recovery.checkpoint_every == every
    )


LAUNCHERS = {
    "torchrun": [TORCHRUN, "--standalone", "--nproc-per-node=3", "--max-restarts=2", "-m", "launch.train"],
    "ours": [sys.executable, "-m", "launch.train", "--stages", "3", "--max-restarts", "2"],
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("launcher", "victim"), [("torchrun", 0), ("torchrun", 2), ("ours", 0), ("ours", 2)])
def test_a_killed_rank_leads_to_a_restart_from_the_newest_checkpoint(
    tmp_path: Path, launcher: str, victim: int
) -> None:
    out, epochs = tmp_path / "run", 40
    settings = ["--epochs", str(epochs), "--checkpoint-every", "20", "--out", str(out)]
    with started([*LAUNCHERS[launcher], *TINY, *settings], TMPDIR=str(tmp_path)) as process:
        until(lambda: bool(CheckpointStore(out).steps()), 60, "the first checkpoint")
        kill(rank_processes(str(tmp_path))[victim])
        stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert_it_went_on(out, epochs, stdout, stderr, victim)
    until(lambda: not rank_processes(str(tmp_path)), 5, "the end of all ranks")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_rank_on_two_nodes_leads_to_a_restart_that_continues(tmp_path: Path) -> None:
    out, epochs = tmp_path / "run", 40
    settings = ["--epochs", str(epochs), "--checkpoint-every", "20", "--out", str(out), "--transport", "dist"]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        place = ["--master-addr", "localhost", "--master-port", str(probe.getsockname()[1])]
    nodes = [
        [TORCHRUN, "--nnodes=2", "--nproc-per-node=1", *place, f"--node-rank={rank}", "--max-restarts=1"]
        for rank in range(2)
    ]
    job = ["-m", "launch.train", *TINY, *settings]
    with started([*nodes[0], *job]) as first, started([*nodes[1], *job]) as second:
        until(lambda: bool(CheckpointStore(out).steps()), 60, "the first checkpoint")
        kill(rank_processes(str(tmp_path))[1])
        stdout, stderr = first.communicate(timeout=200)
        assert first.returncode == 0, stderr
        assert second.wait(30) == 0
    assert_it_went_on(out, epochs, stdout, stderr, 1, stages=2)


def assert_it_went_on(out: Path, epochs: int, stdout: str, stderr: str, victim: int, stages: int = 3) -> None:
    """One line about the victim, one restart, every sample trained and every epoch reported once."""
    assert len(our_lines(stderr)) == 1 and f"rank {victim}" in our_lines(stderr)[0], stderr
    assert "restart 1 of " in stdout and "resumed from the checkpoint of step" in stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["restarts"]["count"] == 1
    assert 0 <= summary["restarts"]["lost_steps"] < epochs * 24
    assert [stage["samples"] for stage in summary["stages"]] == [epochs * 1497] * stages
    assert [line["epoch"] for line in lines_of(out) if line["kind"] == "epoch"] == list(range(1, epochs + 1))
