"""Whole jobs in real processes that are struck by faults: they go on, or end with one line that says why."""

from __future__ import annotations

import json
import mmap
import re
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import StageError
from dni_async.messages import Marker, MarkerKind
from launch.config.train import TrainConfig
from launch.engines.decoupled import _report
from launch.report.weights import load_all
from tasks.vision.digits import DigitsFcn
from tests.support.forks import Job
from tests.support.growth import ProcessWatch, growth
from tests.support.tiny_task import Tiny, context_of, plain_layers
from workers.checkpoint.store import CheckpointStore

STEPS = 48


def struck(folder: Path, fault: str, ranks: int = 2, **settings: Any) -> Job:
    """A job of two epochs, to be struck by a fault."""
    config = TrainConfig.of(**{"batch_size": 64, "epochs": 2} | settings)
    return Job(config, DigitsFcn(depth=3, width=32), ranks, folder, DNI_ASYNC_INJECT=fault)


def finished(job: Job) -> dict[str, Any]:
    """The summary of a job that ended well, with every batch trained at every stage."""
    assert job.statuses() == [0] * len(job.ranks), job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert [stage["samples"] for stage in summary["stages"]] == [2 * 1497] * len(job.ranks)
    assert [stage["targets_received"] for stage in summary["stages"][:-1]] == [STEPS] * (len(job.ranks) - 1)
    return summary


def only_line(job: Job) -> str:
    assert {*job.statuses()} != {0}
    (line,) = job.lines()
    return line


def test_a_killed_stage_ends_the_run(tmp_path: Path) -> None:
    with struck(tmp_path, "kill@1:5", ranks=3) as job:
        line = only_line(job)
        assert sorted(job.statuses()) == [-9, 1, 1]
    assert re.match(r"dni-async: stage 1 \(rank 1\) is gone; stage [02] noticed (at|after) step \d+", line), (
        line
    )


@pytest.mark.slow  # tests/launch/test_train.py has a stopped rank, too
def test_a_stage_that_stalls_beyond_the_deadline_ends_the_run(tmp_path: Path) -> None:
    with struck(tmp_path, "stall@1:5:4", ranks=3, timeout=1.0) as job:
        line = only_line(job)
    assert re.search(r"stage [02] \(rank [02]\), (at|after) step \d+: .*stage 1.* 1 s", line), line


@pytest.mark.slow  # tests/launch/test_train.py has a stopped rank, too
def test_a_stage_that_stalls_within_the_deadline_only_delays_the_other_stages(tmp_path: Path) -> None:
    start = time.monotonic()
    with struck(tmp_path, "stall@1:5:1.5", timeout=20.0) as job:
        finished(job)
    assert time.monotonic() - start > 1.5


def test_faster_stages_wait_for_a_slow_one(tmp_path: Path) -> None:
    with struck(tmp_path, f"slow@1:0:0.02x{STEPS}", in_flight=2) as job:
        first = finished(job)["stages"][0]
    assert first["wait_s"] > 0.4 * 0.02 * STEPS  # after the warm-up
    assert first["staleness_max"] <= 2 + 1  # what is on the way, and what the stage itself has in hand
    assert first["targets_dropped"] == 0


BEFALLEN = [
    (
        "drop@0:5",
        1,
        r"at step 6: the activation of step 6 came where that of step 5 was due: that one got lost",
    ),
    (
        "duplicate@0:5",
        1,
        "at step 5: the activation of step 5 came where that of step 6 was due: it came twice",
    ),
    (
        "reorder@0:5",
        1,
        r"at step 6: the activation of step 6 came where that of step 5 was due: that one got lost",
    ),
    ("corrupt@0:5", 1, "at step 5: the loss is nan"),
]
TARGETS = [
    (
        "drop-target@1:5",
        0,
        "at step 6: the target of step 6 came where that of step 5 was due: that one got lost",
    ),
    (
        "duplicate-target@1:5",
        0,
        "at step 5: the target of step 5 came where that of step 6 was due: it came twice",
    ),
    (
        "reorder-target@1:5",
        0,
        "at step 6: the target of step 6 came where that of step 5 was due: that one got",
    ),
    ("corrupt-target@1:5", 0, "the gradient has NaN or infinite values"),
    (f"drop@0:{STEPS - 1}", 1, f"marker EPOCH of step {STEPS} came after {STEPS - 1} batches: some got lost"),
    (
        f"drop-target@1:{STEPS - 1}",
        0,
        f"marker EPOCH of step {STEPS} came back after {STEPS - 1} targets: some",
    ),
]


@pytest.mark.parametrize(
    ("fault", "noticed", "words"),
    [*BEFALLEN, *(pytest.param(*row, marks=pytest.mark.slow) for row in TARGETS)],
    ids=lambda value: value if isinstance(value, str) and "@" in value else "",
)
def test_a_lost_repeated_or_damaged_message_is_detected_by_its_receiver(
    tmp_path: Path, fault: str, noticed: int, words: str
) -> None:
    with struck(tmp_path, fault) as job:
        line = only_line(job)
    assert line.startswith(f"dni-async: stage {noticed} (rank {noticed}), ") and words in line, line


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["corrupt@0:5", "corrupt-target@1:5"])
def test_a_corrupt_message_can_be_skipped(tmp_path: Path, fault: str) -> None:
    with struck(tmp_path, fault, on_nonfinite="skip") as job:
        assert job.statuses() == [0, 0], job.lines()
    first, last = json.loads((job.out / "summary.json").read_text())["stages"]
    assert (first["skipped"], last["skipped"], first["targets_skipped"]) == (
        (0, 1, 1) if fault == "corrupt@0:5" else (0, 0, 1)
    )


class FullDisk(nn.Module):
    """Lets everything through; from one training batch on this process's disk takes no file that is larger
    than a slot here, and a part of a checkpoint is."""

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.at, self.count = at, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if self.count == self.at:
                resource.setrlimit(
                    resource.RLIMIT_FSIZE, (mmap.PAGESIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
                )
            self.count += 1
        return x


def with_full_disk(at: int | None) -> list[nn.Module]:
    layers = plain_layers()
    return [*layers[:3], nn.Sequential(FullDisk(at), layers[3]), layers[4]]


def test_a_checkpoint_that_fails_on_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    """Stage 1 is killed later, and the job goes on from there."""
    settings = {"batch_size": 16, "epochs": 4, "cut": "3", "checkpoint_every": 3, "deterministic": True}
    config = TrainConfig.of(out="set by the job", **settings)
    task = Tiny(partial(with_full_disk, 5))
    with Job(config, task, 2, tmp_path, DNI_ASYNC_INJECT="kill@1:15") as job:
        assert sorted(job.statuses()) == [-9, 1], job.lines()
        told, *_ = job.lines()
    assert "checkpoint of step 6 could not be written" in told and "File too large" in told
    assert told.endswith("; the one before is kept")
    assert CheckpointStore(job.out).steps() == [3, 4]
    config.recovery.resume = True
    with Job(config, Tiny(partial(with_full_disk, None)), 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert summary["checkpoints"]["resumed_at"] == 4 and summary["checkpoints"]["failed"] == 0
    assert [stage["samples"] for stage in summary["stages"]] == [4 * 50] * 2


@pytest.mark.slow
def test_no_memory_grows_while_one_stage_is_slow_for_a_thousand_steps(tmp_path: Path) -> None:
    """Twenty times as slow as it is and more."""
    pause, epochs = 0.05, 42
    with struck(tmp_path, f"slow@2:0:{pause}x1008", ranks=3, epochs=epochs) as job:
        metrics, pids = job.out / "metrics.jsonl", [rank.pid for rank in job.ranks]

        def in_training() -> list[psutil.Process]:
            started = metrics.exists() and metrics.stat().st_size > 0
            return [psutil.Process(pid) for pid in pids] if started else []

        watch = ProcessWatch(in_training, 0.25, tmp_path / "watch.jsonl")
        watch.start()
        statuses = job.statuses(timeout=300.0)
        watch.stop()
        assert statuses == [0, 0, 0], job.lines()
    stages = json.loads((job.out / "summary.json").read_text())["stages"]
    assert [stage["steps"] for stage in stages] == [24 * epochs] * 3
    assert pause > 20 * stages[2]["busy_s"] / stages[2]["steps"]
    for row in growth(watch.samples):
        first, last = row["rss_bytes"]
        print(f"rank {row['rank']}: {first / 1e6:.1f} -> {last / 1e6:.1f} MB")
        assert abs(last - first) < 0.05 * first and row["grew"] == [], row


@pytest.mark.slow
def test_two_runs_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Over every transport, each gives the weights that it gives alone."""
    config = TrainConfig.of(batch_size=16, epochs=3, cut="1,3", deterministic=True)
    for transport in ("shm", "tcp", "dist", "rpc"):
        config = config.changed(transport=transport, trust_network=True)
        folders = [tmp_path / transport / name for name in ("alone", "a", "b")]
        with Job(config, Tiny(), 3, folders[0]) as job:
            assert job.statuses() == [0] * 3, job.lines()
        with Job(config, Tiny(), 3, folders[1]) as a, Job(config, Tiny(), 3, folders[2]) as b:
            assert a.statuses() == b.statuses() == [0] * 3, a.lines() + b.lines()
        alone, *others = (load_all(folder / "run", 3) for folder in folders)
        for other in others:
            assert all(torch.equal(alone[name], other[name]) for name in alone)


def test_a_lost_test_batch_is_missing_from_the_result() -> None:
    rank = context_of(Tiny(test=20), TrainConfig.of())
    marker = Marker(MarkerKind.EPOCH, 7, 1, True, {"result": {"tested": 19}})
    with pytest.raises(
        StageError, match=r"^the evaluation of step 7 was on 19 of 20 samples: some got lost$"
    ):
        _report(rank, None, marker)  # type: ignore[arg-type]


def test_an_unknown_fault_is_refused(tmp_path: Path) -> None:
    with struck(tmp_path, "kil@1:5") as job:
        assert "DNI_ASYNC_INJECT has kil@1:5; write ACTION@STAGE:STEP" in only_line(job)
