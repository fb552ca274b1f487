"""Whole training jobs: under torchrun, without it, on two nodes, and what is left when a rank dies."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import TensorDataset

from launch.config.recurrent import SequenceConfig
from launch.config.train import TrainConfig
from launch.train import configuration
from tasks.vision.digits import DigitsFcn
from tasks.vision.mnist import MnistFcn
from tests.support.forks import Job
from tests.support.jobs import (
    TINY,
    TORCHRUN,
    kill,
    our_lines,
    rank_processes,
    run,
    shared_memory,
    started,
)
from tests.support.waiting import until

LONG = (*TINY, "--epochs", "100000")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("--task copy --bptt 4", SequenceConfig),
        ("--epochs 3 --task=tasks.sequence.copying:RepeatCopy", SequenceConfig),
        ("--task mnist-fcn --rule cdni", TrainConfig),
        ("--rule cdni", TrainConfig),
    ],
)
def test_the_kind_of_task_decides_which_options_there_are(line: str, kind: type) -> None:
    assert type(configuration(line.split())) is kind


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """A run of three stages under torchrun: its folder, its summary, what it printed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    command = [TORCHRUN, "--standalone", "--nproc-per-node", "3", "-m", "launch.train", *TINY]
    with started([*command, "--epochs", "3", "--out", str(out)]) as process:
        stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    return out, json.loads((out / "summary.json").read_text()), stdout


def test_every_sample_is_trained_at_every_stage_and_every_target_arrives(
    finished: tuple[Path, dict[str, Any], str],
) -> None:
    stages = finished[1]["stages"]
    assert [stage["samples"] for stage in stages] == [3 * 1497] * 3
    assert [stage["steps"] for stage in stages] == [3 * 24] * 3  # 23 batches of 64 and one of 25
    assert [stage["targets_sent"] for stage in stages] == [0, 72, 72]
    assert [stage["targets_received"] for stage in stages] == [72, 72, 0]
    assert [stage.get("targets_dropped", 0) for stage in stages] == [0, 0, 0]


@pytest.mark.slow
def test_delayed_and_local_stages_learn_what_frozen_ones_cannot(tmp_path: Path) -> None:
    """Three narrow stages: frozen ones reach 0.46 here, delayed ones 0.92, local ones 0.94."""
    final = {}
    for rule in ("delayed", "local"):
        config = TrainConfig.of(rule=rule, epochs=5, batch_size=32, lr=3e-3, cut="2,4")
        with Job(config, DigitsFcn(depth=6, width=16), 3, tmp_path / rule) as job:
            assert job.statuses() == [0] * 3, job.lines()
        final[rule] = json.loads((job.out / "summary.json").read_text())
    accuracies = {rule: summary["final"]["test_accuracy"] for rule, summary in final.items()}
    assert min(accuracies.values()) > 0.8, accuracies
    steps = 5 * 47
    delayed, local = final["delayed"]["stages"], final["local"]["stages"]
    assert [stage["targets_sent"] for stage in delayed] == [0, steps, steps]
    assert [stage["targets_received"] for stage in delayed] == [steps, steps, 0]
    assert all(0 <= stage["staleness_mean"] <= stage["staleness_max"] <= 3 for stage in delayed[:2])
    assert all(stage["held_bytes"] > 0 and stage["sg_s"] == 0 for stage in delayed[:2])
    assert [stage["targets_sent"] for stage in local] == [0, 0, 0]
    assert all(stage["local_accuracy"] > 0.5 and stage["head_s"] > 0 for stage in local[:2])


@pytest.mark.slow
def test_emulated_stages_are_as_fast_as_their_flops_allow(tmp_path: Path) -> None:
    task, gflops = DigitsFcn(depth=3, width=32), 0.2
    config = TrainConfig.of(epochs=1, batch_size=64, emulate_gflops=gflops, cut="1,2,3")
    with Job(config, task, 4, tmp_path) as job:
        assert job.statuses() == [0] * 4, job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    # stage 0 is the slowest: 784 inputs without a gradient; linear SG network of 1 + 2 + 2 * 2 products
    flops = 2 * 64 * (784 * 32 * 2 + 32 * (32 + 10) * (1 + 2 + 2 * 2))
    fastest = 64 / (flops / (gflops * 1e9))
    assert 0.3 * fastest < summary["samples_per_s"] < 1.05 * fastest
    assert summary["emulated_gflops"] == gflops
    assert all(0 <= stage["emulation_overrun"] <= 1 for stage in summary["stages"])


def test_the_whole_test_set_is_evaluated_after_each_epoch(finished: tuple[Path, dict[str, Any], str]) -> None:
    epochs = finished[1]["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert [epoch["tested"] for epoch in epochs] == [300] * 3
    assert finished[1]["final"]["test_accuracy"] == epochs[-1]["test_accuracy"] > 0.5
    assert epochs[0]["seconds"] < epochs[1]["seconds"] < epochs[2]["seconds"] == finished[1]["train_s"]


def test_the_summary_says_what_ran_and_how_well(finished: tuple[Path, dict[str, Any], str]) -> None:
    summary = finished[1]
    assert (summary["task"], summary["engine"], summary["seed"]) == ("digits-fcn", "cdni", 0)
    assert summary["settings"]["batch_size"] == 64 and "torch" in summary["versions"]
    assert summary["samples_per_s"] > 0 and summary["transports"] == ["shm", "shm"]
    for stage in summary["stages"]:
        assert stage["layers"] and stage["parameters"] > 0 and stage["peak_rss_bytes"] > 1e7
        assert 0 < stage["utilisation"] <= 1 and stage["busy_s"] > 0 and stage["wait_s"] >= 0
        assert stage["threads"] == 1 and stage["cores"]
    first = summary["stages"][0]
    assert 0 < first["staleness_mean"] <= first["staleness_max"]
    assert first["sg_relative_error"] > 0 and -1 <= first["sg_cosine"] <= 1


def test_a_run_writes_all_result_files(finished: tuple[Path, dict[str, Any], str]) -> None:
    out, _, stdout = finished
    assert {path.name for path in out.iterdir()} == {
        "run.lock", "config.yaml", "summary.json", "metrics.jsonl", "timeline.json", "timeline.png",
        "curves.png", "weights",
    }  # fmt: skip
    events = json.loads((out / "timeline.json").read_text())["traceEvents"]
    assert {event["name"] for event in events if event["ph"] == "X" and event["tid"] == 0} >= {
        "forward", "backward", "update", "sg", "send", "evaluate",
    }  # fmt: skip
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2, 3]
    assert "epoch 3/3" in stdout and "digits-fcn, cdni, 3 stages" in stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles by g++, which is not here")
@pytest.mark.parametrize(
    ("ranks", "settings"),
    [(2, {"target_every": 2}), (1, {"engine": "backprop"}), (2, {"engine": "ddp"})],
    ids=str,
)
def test_compiled_layers_learn_as_well(tmp_path: Path, ranks: int, settings: dict[str, Any]) -> None:
    shared = settings | {"epochs": 5, "batch_size": 64, "deterministic": True}
    runs = []
    for compiled in (True, False):
        config = TrainConfig.of(compile=compiled, timeout=10.0, **shared)
        with Job(config, DigitsFcn(depth=3, width=32), ranks, tmp_path / str(compiled)) as job:
            assert job.statuses() == [0] * ranks, job.lines()
        runs.append(json.loads((job.out / "summary.json").read_text())["final"])
    assert runs[0]["loss"] == pytest.approx(runs[1]["loss"], rel=0.01)
    assert runs[0]["test_accuracy"] == pytest.approx(runs[1]["test_accuracy"], abs=0.02)


def test_ranks_that_are_alone_on_their_nodes_train_together(tmp_path: Path) -> None:
    config, alone = TrainConfig.of(epochs=1, batch_size=64, transport="dist"), {"LOCAL_RANK": "0"}
    with Job(config, DigitsFcn(depth=3, width=32), 2, tmp_path, LOCAL_WORLD_SIZE="1", **alone) as job:
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert summary["transports"] == ["dist"]
    assert [stage["samples"] for stage in summary["stages"]] == [1497, 1497]


@pytest.mark.slow  # two agents and their ranks import torch; above, ranks meet as they do here
def test_two_nodes_train_together_over_dist(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    agent = [TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "localhost"]
    job = [
        "-m",
        "launch.train",
        *TINY,
        "--epochs",
        "1",
        "--transport",
        "dist",
        "--out",
        str(tmp_path / "run"),
    ]
    nodes = [[*agent, "--master-port", str(port), "--node-rank", rank, *job] for rank in ("0", "1")]
    with started(nodes[0]) as first, started(nodes[1]) as second:
        _, error = first.communicate(timeout=90)
        assert first.returncode == 0, error
        assert second.wait(30) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["transports"] == ["dist"]
    assert [stage["samples"] for stage in summary["stages"]] == [1497, 1497]


def test_a_killed_rank_ends_the_job_with_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    before = shared_memory()
    command = [
        TORCHRUN,
        "--standalone",
        "--nproc-per-node",
        "3",
        "-m",
        "launch.train",
        *LONG,
        "--out",
        str(out),
    ]
    with started(command) as process:
        metrics = out / "metrics.jsonl"
        until(lambda: metrics.exists() and metrics.stat().st_size > 0, 60, "the first epoch")
        kill(rank_processes(f"--out {out}")[1])
        start = time.monotonic()
        _, error = process.communicate(timeout=30)
        assert time.monotonic() - start < 10
        assert process.returncode == 1
        lines = our_lines(error)
        assert len(lines) == 1, error
        assert "rank 1" in lines[0] and "step" in lines[0] and "gone" in lines[0]
        until(lambda: not rank_processes(str(out)), 5, "the end of all ranks")
    assert shared_memory() == before


@pytest.mark.parametrize(
    "transport", ["shm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tcp", "dist", "rpc"))]
)
@pytest.mark.parametrize(
    "victim", [1, pytest.param(0, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_the_surviving_ranks_detect_a_killed_rank_without_a_launcher(
    tmp_path: Path, victim: int, transport: str
) -> None:
    """Without torchrun to tell them."""
    config = TrainConfig.of(epochs=100_000, batch_size=64, transport=transport, trust_network=True)
    with Job(config, DigitsFcn(depth=3, width=32), 3, tmp_path) as job:
        job.wait_until_it_trains()
        job.ranks[victim].kill()
        start = time.monotonic()
        statuses = job.statuses()
        assert time.monotonic() - start < 10
    assert sorted(statuses) == [-9, 1, 1]
    lines = our_lines("\n".join(job.lines()))
    assert len(lines) == 1 and f"stage {victim} (rank {victim}) is gone" in lines[0] and "step" in lines[0], (
        lines
    )


@pytest.mark.parametrize(
    "victim", [1, pytest.param(0, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_stopped_rank_is_waited_for_until_the_deadline_and_no_longer(tmp_path: Path, victim: int) -> None:
    timeout = 8.0  # the start, on a busy machine, has to be faster
    config = TrainConfig.of(epochs=100_000, batch_size=64, timeout=timeout)
    with Job(config, DigitsFcn(depth=3, width=32), 3, tmp_path) as job:
        metrics, pid = job.out / "metrics.jsonl", job.ranks[victim].pid
        assert pid is not None
        others = [rank for rank in range(3) if rank != victim]

        def lines() -> int:
            return len(metrics.read_text().splitlines()) if metrics.exists() else 0

        job.wait_until_it_trains()
        os.kill(pid, signal.SIGSTOP)
        until(lambda: all(job.waits(rank) for rank in others), timeout / 2, "the waiting of all others")
        before = lines()
        os.kill(pid, signal.SIGCONT)
        until(lambda: lines() > before + 3, 30, "the next epochs")
        os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        for rank in others:
            job.ranks[rank].join(30)
        assert timeout - 1 < time.monotonic() - start < timeout + 10
        assert [job.ranks[rank].exitcode for rank in others] == [1, 1]
    (line,) = job.lines()
    assert f"for {timeout:g} s; no sign of life for " in line, line
    assert f"from stage {victim} (rank {victim}), a" in line and "step" in line, line
    (printer,) = [rank for rank in range(3) if (tmp_path / f"stderr-{rank}").read_text()]
    assert printer in others and (victim == 0 or printer == 0)
    assert "Traceback" in (job.out / f"rank-{others[-1]}.log").read_text()


def test_ctrl_c_ends_a_local_job_with_its_results_and_one_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(
        [sys.executable, "-m", "launch.train", "--stages", "2", *LONG, "--out", str(out)]
    ) as process:
        metrics = out / "metrics.jsonl"
        until(lambda: metrics.exists() and metrics.stat().st_size > 0, 60, "the first epoch")
        os.kill(process.pid, signal.SIGINT)
        start = time.monotonic()
        _, error = process.communicate(timeout=30)
        assert time.monotonic() - start < 10
    assert process.returncode == 130
    summary = json.loads((out / "summary.json").read_text())
    assert error.splitlines() == [
        f"dni-async: stopped by SIGINT after step {summary['interrupted']['step']}; weights, summary.json "
        f"and pictures are in {out}"
    ]


@pytest.mark.slow
def test_ctrl_c_while_the_results_are_written_lets_a_finished_run_end_well(tmp_path: Path) -> None:
    """Rank 0 opens a pipe in the place of matplotlib's settings, and waits there."""
    out, pipe = tmp_path / "run", tmp_path / "matplotlibrc"
    os.mkfifo(pipe)
    command = [
        sys.executable,
        "-m",
        "launch.train",
        "--stages",
        "2",
        *TINY,
        "--epochs",
        "1",
        "--out",
        str(out),
    ]
    with started(command, MATPLOTLIBRC=str(pipe)) as process:
        until(lambda: (out / "timeline.json").exists(), 60, "the last marker")
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1.0)  # for the launcher to pass it on
        pipe.write_text("")
        _, error = process.communicate(timeout=30)
    assert process.returncode == 0
    assert error.splitlines() == ["dni-async: SIGINT came when all results were written"]
    assert "interrupted" not in json.loads((out / "summary.json").read_text())


BAD: list[tuple[int, str, dict[str, Any]]] = [
    (2, "lower --lr", {"lr": 1e30}),  # for loss, gradient or activation, whichever a stage sees first
    (
        2,
        "the weights have NaN or infinite values; lower --lr",  # after the last update
        {"rule": "delayed", "optimizer": "sgd", "lr": 1e40, "steps_per_epoch": 1, "epochs": 1},
    ),
    (2, "cuda", {"device": "cuda"}),
    (5, "5 stages cannot share 4 layers", {}),
    (2, "cut 5 is not increasing", {"cut": "5"}),
    (2, "2 links", {"transport": "shm,shm"}),
    (2, "3 stages were asked for and 2 ranks run", {"stages": 3}),
]


@pytest.mark.parametrize(("ranks", "words", "settings"), BAD, ids=[words for _, words, _ in BAD])
def test_bad_input_found_by_a_rank_is_one_line_and_status_2(
    tmp_path: Path, ranks: int, words: str, settings: dict[str, Any]
) -> None:
    config = TrainConfig.of(batch_size=64, **settings)
    with Job(config, DigitsFcn(depth=3, width=32), ranks, tmp_path) as job:
        statuses = job.statuses()
    assert set(statuses) <= {1, 2} and 2 in statuses  # a neighbour may notice first that a rank is gone
    assert len(job.lines()) == 1 and job.lines()[0].startswith("dni-async: "), job.lines()
    assert words in job.lines()[0]


class OneBadPixel(DigitsFcn):
    """Of the training set, in one batch of every epoch."""

    def data(self, root: Path | None = None) -> tuple[TensorDataset, TensorDataset]:
        train, test = super().data(root)
        x, y = train.tensors
        x = x.clone()
        x[100, ..., 3] = math.nan
        return TensorDataset(x, y), test


def test_a_bad_value_in_the_data_stops_the_run_with_one_line(tmp_path: Path) -> None:
    with Job(TrainConfig.of(batch_size=64), OneBadPixel(depth=3, width=32), 2, tmp_path) as job:
        assert 2 in job.statuses()
    (line,) = job.lines()
    said = r"dni-async: stage 0 \(rank 0\), at step \d+: the activation has NaN or infinite values; .*"
    assert re.fullmatch(said, line), line


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "delayed"},
        pytest.param({"deterministic": True, "transport": "dist"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_with_on_nonfinite_skip_a_bad_batch_is_skipped_and_reported(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = TrainConfig.of(batch_size=64, epochs=3, on_nonfinite="skip", **settings)
    with Job(config, OneBadPixel(depth=3, width=32), 3, tmp_path) as job:
        assert job.statuses() == [0, 0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert [stage["skipped"] for stage in summary["stages"]] == [3, 3, 3]
    assert [stage["targets_received"] for stage in summary["stages"]] == [72, 72, 0]
    assert summary["final"]["test_accuracy"] > 0.5
    assert any(note.startswith("stage 1 did not learn from 3 of 72 batches") for note in summary["notes"])


def test_a_corrupt_data_file_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "mnist" / f"{name}-ubyte").write_bytes(b"not an idx file")
    with Job(TrainConfig.of(data_root=str(tmp_path)), MnistFcn(), 2, tmp_path) as job:
        assert job.statuses() == [2, 2]
    assert len(job.lines()) == 1 and "-ubyte" in job.lines()[0], job.lines()


def test_bad_input_under_the_local_launcher_is_one_line_and_status_2(tmp_path: Path) -> None:
    """And no restart would help."""
    restarts = ("--max-restarts", "3", "--out", str(tmp_path / "run"))
    done = run("launch.train", "--stages", "2", *TINY, "--cut", "9", *restarts)
    assert (done.returncode, done.stdout) == (2, "dni-async: reading the data of digits-fcn\n")
    assert done.stderr.startswith("dni-async: cut 9") and done.stderr.count("\n") == 1, done.stderr


def test_an_unknown_task_is_one_line_and_status_2() -> None:
    done = run("launch.train", "--task", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dni-async: unknown task (nope)") and done.stderr.count("\n") == 1, (
        done.stderr
    )


def test_a_port_in_use_is_one_line_and_status_2() -> None:
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = run("launch.train", "--stages", "2", *TINY, "--port", port)
    assert done.returncode == 2
    assert len(our_lines(done.stderr)) == 1 and port in done.stderr and "Traceback" not in done.stderr
