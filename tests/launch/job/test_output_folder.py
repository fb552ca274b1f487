"""What a new run does about an earlier one in its folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dni_async.errors import UserError
from launch.config.recurrent import SequenceConfig
from launch.config.train import TrainConfig
from launch.fit import fit
from launch.job.output_folder import check_unused, clear, remove_results, save_files
from launch.recurrent.train import run_sequences
from tests.support.forks import Job
from tests.support.tiny_task import Tiny, plain_layers
from tests.support.waiting import until
from workers.checkpoint.store import CheckpointStore
from workers.failure.rank_runner import RankRunner

SETTINGS: dict[str, Any] = {"batch_size": 16, "epochs": 1}
EARLIER = (
    "summary.json",
    "metrics.jsonl",
    "reached.json",
    "timeline.json",
    "timeline.png",
    "curves.png",
    "weights/stage-0.safetensors",
    "weights/stage-7.safetensors",
    "model/model.json",
    "model/model.safetensors",
    "checkpoints/step-00000040/stage-0.safetensors",
    "checkpoints/step-00000040/manifest.json",
    "checkpoints/step-00000060/stage-1.safetensors",
    "files/tokenizer.json",
)
OF_THE_USER = (
    "notes.txt",
    "model.safetensors",
    "weights/mine.safetensors",
    "checkpoints/step-40/best.pt",
    "checkpoints/step-00000080.refused/manifest.json",
)


def make(out: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("old")


def files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def used(tmp_path: Path) -> Path:
    make(tmp_path, EARLIER + OF_THE_USER)
    return tmp_path


def test_a_run_that_begins_leaves_nothing_of_an_earlier_one_and_all_of_the_user(used: Path) -> None:
    clear(used, overwrite=False)
    assert files(used) == set(OF_THE_USER)


def test_an_empty_folder_of_an_earlier_run_is_removed(tmp_path: Path) -> None:
    make(tmp_path, EARLIER)
    clear(tmp_path, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_were_exported_are_removed_with_overwrite(used: Path) -> None:
    clear(used, overwrite=True)
    assert files(used) == set(OF_THE_USER) - {"model.safetensors"}


def test_a_run_that_goes_on_keeps_checkpoints_and_metrics(used: Path) -> None:
    remove_results(used)
    kept = {name for name in EARLIER if name.startswith(("checkpoints", "metrics", "reached", "files"))}
    assert files(used) == kept | set(OF_THE_USER)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("checkpoints/step-00000040/manifest.json", "has a checkpoint of step 40 of an earlier run; go on"),
        ("summary.json", "has the results of an earlier run; remove them by --overwrite, or choose another"),
    ],
)
def test_a_folder_with_an_earlier_run_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    make(tmp_path, (name,))
    with pytest.raises(UserError, match=complaint):
        check_unused(tmp_path)


def test_a_folder_with_what_a_failed_run_left_is_not_refused(tmp_path: Path) -> None:
    make(tmp_path, ("metrics.jsonl", "rank-0.log", "weights/stage-0.safetensors"))
    check_unused(tmp_path)


def test_a_second_run_in_a_folder_is_refused_or_replaces_the_first(tmp_path: Path) -> None:
    """Also one that is to resume, where there is no checkpoint."""
    task = Tiny(plain_layers)
    with Job(TrainConfig.of(**SETTINGS), task, 3, tmp_path) as first:
        assert first.statuses() == [0, 0, 0], first.lines()
    (first.out / "curves.png").write_text("old")
    before = files(first.out)
    for again, words in (
        ({}, "an earlier run; remove them by --overwrite, or choose another --out"),
        (
            {"out": "set by the job", "resume": True},
            "a run without checkpoints (--checkpoint-every), which cannot be resumed; start from its weights "
            "by launch.export and --init, in another --out",
        ),
    ):
        with Job(TrainConfig.of(**SETTINGS | again), task, 2, tmp_path) as second:
            assert second.statuses() == [2, 2]
        assert second.lines() == [f"dni-async: {first.out} has the results of {words}"]
    assert files(first.out) == before
    assert (first.out / "curves.png").read_text() == "old"
    with Job(TrainConfig.of(overwrite=True, **SETTINGS), task, 2, tmp_path) as third:
        assert third.statuses() == [0, 0], third.lines()
    assert {path.name for path in (first.out / "weights").iterdir()} == {
        "stage-0.safetensors",
        "stage-1.safetensors",
    }
    assert (first.out / "curves.png").read_bytes() != b"old"


def test_a_run_with_checkpoints_is_replaced_from_the_start(tmp_path: Path) -> None:
    config = TrainConfig.of(out="set by the job", checkpoint_every=0, **SETTINGS)
    with Job(config, Tiny(plain_layers), 1, tmp_path) as first:
        assert first.statuses() == [0], first.lines()
    with Job(config.changed(overwrite=True, batch_size=25), Tiny(plain_layers), 1, tmp_path) as second:
        assert second.statuses() == [0], second.lines()
    assert CheckpointStore(second.out).steps() == [2]


def test_a_run_whose_folder_is_deleted_ends_with_one_line_and_does_not_make_it_again(tmp_path: Path) -> None:
    config = TrainConfig.of(**SETTINGS | {"epochs": 10_000_000})
    with Job(config, Tiny(plain_layers), 2, tmp_path) as job:
        job.wait_until_it_trains()
        until(lambda: deleted(job.out), 10, "the deletion of the folder")
        assert job.statuses() == [1, 1]
    (line,) = job.lines()
    assert "stage 0 (rank 0), at step" in line and "metrics.jsonl was deleted while the run wrote" in line
    assert not job.out.exists()


def deleted(folder: Path) -> bool:
    """Delete a folder that others write to; return whether it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def test_a_run_over_time_is_refused_where_another_has_ended(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"task": "adding", "epochs": 1, "quiet": True, "out": str(tmp_path)}
    args = ("width=8", "updates=20")
    (tmp_path / "summary.json").touch()
    with pytest.raises(UserError, match="has the results of an earlier run"):
        run_sequences(RankRunner(), SequenceConfig.of(task_args=args, **settings))
    (tmp_path / "metrics.jsonl").write_text("old")
    run_sequences(RankRunner(), SequenceConfig.of(task_args=args, overwrite=True, **settings))
    assert "old" not in (tmp_path / "metrics.jsonl").read_text()
    assert (tmp_path / "summary.json").stat().st_size > 0


@pytest.mark.slow
def test_fit_overwrites_when_asked(tmp_path: Path) -> None:
    fit(Tiny(plain_layers), out=str(tmp_path), **SETTINGS)
    with pytest.raises(UserError, match="has the results of an earlier run"):
        fit(Tiny(plain_layers), out=str(tmp_path), **SETTINGS)
    fit(Tiny(plain_layers), out=str(tmp_path), overwrite=True, **SETTINGS)


def test_resuming_and_overwriting_contradict_each_other() -> None:
    with pytest.raises(
        UserError, match="resume goes on with the earlier run in --out, and overwrite removes"
    ):
        TrainConfig.of(out="a", resume=True, overwrite=True)


def test_the_files_of_a_task_are_written_and_those_of_another_network_are_refused(tmp_path: Path) -> None:
    for _ in range(2):  # a resumed run has the same
        save_files(tmp_path, {"tokenizer.json": b"abc"})
    assert (tmp_path / "files" / "tokenizer.json").read_bytes() == b"abc"
    with pytest.raises(UserError) as error:
        save_files(tmp_path, {"tokenizer.json": b"abd"})
    assert str(error.value) == (
        f"{tmp_path}/files/tokenizer.json is not what the data and settings of this run give; put those back "
        "that it was made from, or choose another --out"
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "files").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*tokenizer.json \(.*\); choose another --out"):
        save_files(tmp_path / "other", {"tokenizer.json": b"abc"})
