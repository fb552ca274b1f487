"""Jobs on iterable sets and on loaders of the task's own, of every engine and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from launch.report.weights import load_all
from tests.support.forks import Job
from tests.support.resumable_jobs import config, equal
from tests.support.tiny_task import CLASSES, FEATURES, Tiny, plain_layers
from tests.support.waiting import until
from workers.checkpoint.store import CheckpointStore

SLOW = pytest.mark.slow


class Stream(IterableDataset[Any]):
    """50 samples, each with other noise whenever it is read."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for number in range(50):
            yield torch.randn(FEATURES) + number / 50, number % CLASSES


class Stateful(Stream):
    """A stream that goes on where it stood."""

    place = 0

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        while self.place < 50:
            self.place += 1
            yield torch.randn(FEATURES) + self.place / 50, self.place % CLASSES
        self.place = 0

    def state_dict(self) -> dict[str, Any]:
        return {"place": (self.place,)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        (self.place,) = state["place"]


class Streamed(Tiny):
    """A task whose training set, and test set, is a stream or a loader."""

    def __init__(self, kind: str = "stream") -> None:
        super().__init__(plain_layers)
        self.kind = kind

    def data(self, root: Path | None = None) -> Any:
        train, test = super().data(root)
        if self.kind == "loader":
            return DataLoader(train, 16, shuffle=True, num_workers=2), DataLoader(test, 7)
        if self.kind == "torchdata":
            stateful = pytest.importorskip(
                "torchdata.stateful_dataloader", reason="torchdata is not installed"
            )
            return stateful.StatefulDataLoader(train, 16, shuffle=True), test
        return (Stateful() if self.kind == "stateful" else Stream()), Stream()


def weights(folder: Path, kind: str, ranks: int = 2, **settings: Any) -> dict[str, Tensor]:
    """Train 3 epochs of 4 steps; the stream ends in the middle of the second and third one."""
    settings = {"cut": "2", "steps_per_epoch": 4, **settings}
    with Job(config(**settings), Streamed(kind), ranks, folder) as job:
        assert job.statuses() == [0] * ranks, job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert [epoch["step"] for epoch in summary["epochs"]] == [4, 8, 12]
    assert {epoch["tested"] for epoch in summary["epochs"]} == {50 if kind in ("stream", "stateful") else 20}
    return load_all(job.out, len(summary["stages"]) if settings.get("engine") is None else 1)


@pytest.mark.parametrize(
    "kind",
    [
        "stateful",
        pytest.param("stream", marks=SLOW),
        pytest.param("loader", marks=SLOW),
        pytest.param("torchdata", marks=SLOW),
    ],
)
def test_a_run_on_a_stream_that_is_resumed_equals_an_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    if kind == "torchdata":
        pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    first = weights(tmp_path / "first", kind)
    shutil.copytree(tmp_path / "first" / "run", tmp_path / "again" / "run")
    CheckpointStore(tmp_path / "again" / "run").discard(12)  # as if the run had been killed in its last epoch
    assert equal(weights(tmp_path / "again", kind, resume=True), first)


@SLOW
def test_a_stream_goes_on_where_the_network_is_cut_otherwise(tmp_path: Path) -> None:
    weights(tmp_path, "stateful")
    CheckpointStore(tmp_path / "run").discard(12)
    weights(tmp_path, "stateful", resume=True, cut="3")


@SLOW
@pytest.mark.parametrize("kind", ["stream", "loader"])
def test_every_engine_gets_the_batches_of_a_stream(kind: str, tmp_path: Path) -> None:
    sequential = weights(tmp_path / "backprop", kind, 1, engine="backprop", cut="", checkpoint_every=None)
    for engine in ("ddp", "1f1b"):
        cut = "2" if engine == "1f1b" else ""
        with Job(
            config(engine=engine, cut=cut, checkpoint_every=None, steps_per_epoch=3, micro_batches=2),
            Streamed(kind),
            2,
            tmp_path / engine,
        ) as job:
            assert job.statuses() == [0, 0], job.lines()
        summary = json.loads((job.out / "summary.json").read_text())
        assert summary["epochs"][0]["trained"] == 48
    oracle = weights(tmp_path / "oracle", kind, rule="oracle", checkpoint_every=None)
    assert equal(oracle, sequential)


@SLOW
def test_a_stage_that_is_started_again_goes_on_in_its_stream(tmp_path: Path) -> None:
    settings = config(
        cut="2", steps_per_epoch=40, epochs=20, supervise=True, deterministic=False, checkpoint_every=30
    )
    with Job(settings, Streamed(), 2, tmp_path) as job:
        job.wait_until_it_trains()
        until(lambda: bool(psutil.Process(job.ranks[0].pid).children()), 30, "the start of the stage")
        psutil.Process(job.ranks[0].pid).children()[0].kill()
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert [stage["restarts"] for stage in summary["stages"]] == [1, 0]
    assert [stage["steps"] for stage in summary["stages"]] == [800, 800]
    assert [epoch["tested"] for epoch in summary["epochs"]] == [50] * 20
