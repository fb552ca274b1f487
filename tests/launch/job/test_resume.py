"""Whole jobs that are resumed, and what is refused.

A run of 3 stages over 12 batches leaves checkpoints of steps 9 and 12.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dni_async.errors import UserError
from dni_async.state.state_dict import State
from launch.config.train import TrainConfig
from launch.job.resume import choose_start, recut_note, restore_stage
from launch.report.weights import load_all
from tasks.vision.digits import DigitsFcn
from tests.support.damage import flip_a_bit
from tests.support.forks import Job
from tests.support.resumable_jobs import EPOCH_STEPS, config, equal, trained
from tests.support.states import same_state
from tests.support.tiny_task import Tiny, context_of, data_of, five_layers, plain_layers
from tests.support.tree_tasks import TREE_TASKS
from tests.support.waiting import until
from workers.checkpoint.store import CheckpointStore


def refused(folder: Path, **settings: Any) -> str:
    """The one line of a job that is bad input."""
    with Job(config(**settings), Tiny(), 3, folder) as job:
        assert set(job.statuses()) == {2}
    (line,) = job.lines()
    return line


def parts_of(folder: Path, step: int) -> list[State]:
    """What the stages kept, without means that are only shown."""
    checkpoints = CheckpointStore(folder / "run")
    manifest = checkpoints.manifest(step)
    parts = [checkpoints.read_part(manifest, i) for i in range(len(manifest.bounds))]
    for part in parts:
        for name in ("loss", "score", "samples", "labels", "scores"):
            part["rule"].pop(name, None)
        part["rule"].get("predictor", {}).pop("agreement", None)
        del part["epoch_over"]
    return parts


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job with rule cdni; not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    trained(folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The same, to be written to."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path


@pytest.mark.parametrize(
    "rule", ["cdni", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("delayed", "local"))]
)
def test_a_resumed_lockstep_run_equals_the_uninterrupted_run_to_the_bit(tmp_path: Path, rule: str) -> None:
    """With dropout, batch norm, targets under way and a checkpoint within an epoch."""
    weights, summary = trained(tmp_path, rule=rule, ema=0.8)
    checkpoints = CheckpointStore(tmp_path / "run")
    assert checkpoints.steps() == [9, 12]
    parts = parts_of(tmp_path, 12)
    checkpoints.discard(12)  # as if the run had been killed
    again, resumed = trained(tmp_path, rule=rule, ema=0.8, resume=True)
    assert resumed["checkpoints"] == {"written": 1, "failed": 0, "resumed_at": 9}
    assert equal(again, weights)
    assert same_state(parts_of(tmp_path, 12), parts)
    assert checkpoints.steps() == [9, 12]
    for key in ("test_loss", "test_accuracy", "loss", "step"):
        assert [e[key] for e in resumed["evaluations"]] == [e[key] for e in summary["evaluations"]]
    for key in ("steps", "samples", "version", "targets_sent", "targets_received"):
        assert [s[key] for s in resumed["stages"]] == [s[key] for s in summary["stages"]]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["cdni", "delayed"])
@pytest.mark.parametrize("name", TREE_TASKS)
def test_a_resumed_run_of_layers_that_exchange_trees_equals_the_uninterrupted_run(
    tmp_path: Path, name: str, rule: str
) -> None:
    weights, _ = trained(tmp_path, task=TREE_TASKS[name], rule=rule)
    CheckpointStore(tmp_path / "run").discard(12)
    again, resumed = trained(tmp_path, task=TREE_TASKS[name], rule=rule, resume=True)
    assert resumed["checkpoints"] == {"written": 1, "failed": 0, "resumed_at": 9}
    assert equal(again, weights)


def test_a_finished_run_continues_for_more_epochs(copy: Path) -> None:
    _, summary = trained(copy, resume=True, epochs=4)
    assert [epoch["epoch"] for epoch in summary["epochs"]] == [1, 2, 3, 4]
    assert [stage["samples"] for stage in summary["stages"]] == [4 * 50] * 3
    seconds = [epoch["seconds"] for epoch in summary["epochs"]]
    assert seconds == sorted(seconds)


def test_resuming_in_another_number_of_stages_keeps_the_weights(copy: Path) -> None:
    before = load_all(copy / "run", 3)
    (copy / "run" / "summary.json").unlink()  # as if the results could not be written
    after, _ = trained(copy, 2, cut="2", resume=True)  # nothing is left to train
    assert equal(after, before)


@pytest.mark.parametrize(("ranks", "cut"), [(1, ""), pytest.param(4, "1,2,3", marks=pytest.mark.slow)])
def test_a_run_continues_in_another_number_of_stages(copy: Path, ranks: int, cut: str) -> None:
    _, summary = trained(copy, ranks, cut=cut, resume=True, epochs=4)
    assert recut_note("cdni") in summary["notes"]
    assert [stage["samples"] for stage in summary["stages"]] == [4 * 50] * ranks
    assert [stage["steps"] for stage in summary["stages"]] == [4 * EPOCH_STEPS] * ranks
    assert [stage["targets_received"] for stage in summary["stages"]] == [4 * EPOCH_STEPS] * (ranks - 1) + [0]


@pytest.mark.slow
def test_a_killed_job_resumes_without_losing_a_sample_or_training_one_twice(tmp_path: Path) -> None:
    """Running free."""
    settings = {"batch_size": 64, "epochs": 100_000, "checkpoint_every": 5, "out": "set by the job"}
    task, checkpoints = DigitsFcn(depth=3, width=32), CheckpointStore(tmp_path / "run")
    with Job(TrainConfig.of(**settings), task, 2, tmp_path) as job:
        until(lambda: bool(checkpoints.steps()[-1:] > [30]), 60, "some checkpoints")
        job.ranks[1].kill()
        job.statuses()
    manifest, _ = checkpoints.newest()
    assert manifest is not None
    epochs = manifest.step // 24 + 2
    with Job(TrainConfig.of(**settings | {"epochs": epochs, "resume": True}), task, 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert summary["checkpoints"]["resumed_at"] == manifest.step
    assert [stage["samples"] for stage in summary["stages"]] == [epochs * 1497] * 2
    assert [stage["targets_received"] for stage in summary["stages"]] == [epochs * 24, 0]
    assert [epoch["epoch"] for epoch in summary["epochs"]] == list(range(1, epochs + 1))
    lines = [json.loads(line) for line in (job.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == list(range(1, epochs + 1))


def test_a_damaged_checkpoint_is_named_and_the_older_checkpoint_is_used(copy: Path) -> None:
    path = copy / "run" / "checkpoints" / "step-00000012" / "stage-1.safetensors"
    flip_a_bit(path)
    _, summary = trained(copy, resume=True)
    assert summary["checkpoints"]["resumed_at"] == 9
    relative = "damaged or of another set (its checksum differs); it is not used"
    assert any(f"{path} is {relative}" in note for note in summary["notes"])


def test_when_all_checkpoints_are_damaged_the_newest_is_named_and_nothing_starts(copy: Path) -> None:
    for path in (copy / "run" / "checkpoints").glob("step-*/stage-0.safetensors"):
        flip_a_bit(path)
    line = refused(copy, resume=True)
    assert "step-00000012/stage-0.safetensors is damaged" in line
    assert line.endswith("; no other checkpoint can be resumed")


def test_a_checkpoint_that_cannot_be_written_is_reported_and_training_continues(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-00000004").write_text("in the way")
    _, summary = trained(tmp_path)
    assert summary["checkpoints"] == {"written": 5, "failed": 1, "resumed_at": None}
    assert any("checkpoint of step 4 could not be written" in note for note in summary["notes"])
    assert [stage["samples"] for stage in summary["stages"]] == [3 * 50] * 3


@pytest.fixture
def task() -> Tiny:
    return Tiny()


class TestWhereToStart:
    """What rank 0 decides."""

    def start(self, folder: Path, task: Tiny, stages: int = 3, **settings: Any) -> Any:
        chosen = config(**{"out": str(folder / "run"), "cut": ""} | settings)
        return choose_start(chosen, task, data_of(task, chosen), stages)

    def test_at_the_newest_checkpoint_with_its_cut(self, finished: Path, task: Tiny) -> None:
        start = self.start(finished, task, resume=True, epochs=4)
        assert (start.position.step, start.cut) == (12, "1,3")
        assert start.notes == ["resumed from the checkpoint of step 12"]
        assert [epoch["epoch"] for epoch in start.record["epochs"]] == [1, 2, 3]

    @pytest.mark.parametrize(("stages", "cut"), [(3, ""), (3, "2,4"), (2, "")])
    def test_a_finished_run_is_refused_with_any_cut(
        self, finished: Path, task: Tiny, stages: int, cut: str
    ) -> None:
        """It would lose its throughput."""
        with pytest.raises(UserError, match=r"is finished \(step 12\); raise --epochs to train on"):
            self.start(finished, task, stages, resume=True, cut=cut)

    def test_a_run_that_has_reached_its_accuracy_is_refused(self, finished: Path, task: Tiny) -> None:
        reached = max(
            epoch["test_accuracy"]
            for epoch in self.start(finished, task, resume=True, epochs=4).record["epochs"]
        )
        settings = {"resume": True, "epochs": 4}
        with pytest.raises(UserError, match=r"is finished \(step 12\); raise --until to train on"):
            self.start(finished, task, until=reached, **settings)
        assert self.start(finished, task, until=min(1.0, reached + 0.01), **settings).position.step == 12

    def test_a_finished_run_whose_results_were_not_written_goes_on(
        self, finished: Path, tmp_path: Path, task: Tiny
    ) -> None:
        shutil.copytree(finished / "run", tmp_path / "run")
        (tmp_path / "run" / "summary.json").unlink()
        assert self.start(tmp_path, task, resume=True).position.step == 12

    @pytest.mark.parametrize(("stages", "cut"), [(2, ""), (3, "2,4")])
    def test_with_another_cut_if_one_is_given_or_needed(
        self, finished: Path, task: Tiny, stages: int, cut: str
    ) -> None:
        start = self.start(finished, task, stages, resume=True, cut=cut, epochs=4)
        assert (start.position.step, start.cut) == (12, cut)

    def test_at_the_beginning_when_there_is_no_checkpoint_yet(self, tmp_path: Path, task: Tiny) -> None:
        start = self.start(tmp_path, task, resume=True)
        assert (start.position.step, start.record) == (0, None)
        folder = tmp_path / "run" / "checkpoints"
        assert start.notes == [f"no checkpoint in {folder} yet: training starts from the beginning"]

    def test_a_new_run_does_not_mix_with_an_earlier_one(self, finished: Path, task: Tiny) -> None:
        with pytest.raises(UserError, match=r"a checkpoint of step 12 of an earlier run; go on .*--resume"):
            self.start(finished, task)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"batch_size": 8}, "was made with batch-size 16, not 8; resume with the same"),
            ({"rule": "dni"}, "was made with rule cdni, not dni"),
            ({"seed": 1}, "was made with seed 0, not 1"),
            ({"optimizer": "sgd"}, "was made with optimizer adam, not sgd"),
            ({"accumulate": 2}, "was made with accumulate 1, not 2"),
            ({"optimizer_args": ("eps=0.1",)}, r"was made with optimizer-args \[\], not \['eps=0.1'\]"),
        ],
    )
    def test_the_settings_that_matter_must_be_the_same(
        self, finished: Path, task: Tiny, settings: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(UserError, match=f"^the checkpoint of step 12 {words}"):
            self.start(finished, task, resume=True, **settings)

    def test_a_setting_that_is_newer_than_the_checkpoint_had_its_default(
        self, finished: Path, tmp_path: Path, task: Tiny
    ) -> None:
        shutil.copytree(finished / "run", tmp_path / "run")
        checkpoints = CheckpointStore(tmp_path / "run")
        manifest = checkpoints.manifest(12)
        older = {name: value for name, value in manifest.settings.items() if name != "accumulate"}
        checkpoints.complete(replace(manifest, settings=older))
        assert self.start(tmp_path, task, resume=True, epochs=4).position.step == 12
        with pytest.raises(UserError, match="was made with accumulate 1, not 2"):
            self.start(tmp_path, task, resume=True, epochs=4, accumulate=2)

    def test_so_must_the_data(self, finished: Path) -> None:
        with pytest.raises(UserError, match=r"was made with samples 50, not 51"):
            self.start(finished, Tiny(train=51), resume=True)

    def test_with_a_record_of_a_run(self, finished: Path, tmp_path: Path, task: Tiny) -> None:
        shutil.copytree(finished / "run", tmp_path / "run")
        checkpoints = CheckpointStore(tmp_path / "run")
        checkpoints.complete(replace(checkpoints.manifest(12), record={"a": 1}))
        with pytest.raises(
            UserError, match=r"step 12 cannot be resumed \(its record of the run has no seconds"
        ):
            self.start(tmp_path, task, resume=True)

    def test_patience_is_not_added_to_a_run_without_it(self, finished: Path) -> None:
        with pytest.raises(UserError, match=r"^the checkpoint of step 12 was made without --patience; leave"):
            self.start(finished, Tiny(validation=30), resume=True, patience=1)

    def test_others_may_be_new(self, finished: Path, task: Tiny) -> None:
        settings = {"lr": 0.5, "epochs": 9, "in_flight": 2, "schedule": "cosine", "deterministic": False}
        assert self.start(finished, task, resume=True, **settings).position.step == 12

    def test_without_a_folder_there_is_nothing_to_choose(self, task: Tiny) -> None:
        chosen = TrainConfig.of(cut="2")
        start = choose_start(chosen, task, data_of(task, chosen), 2)
        assert (start.position.step, start.cut, start.notes) == (0, "2", [])


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (plain_layers, "does not fit task Tiny"),
        (lambda: five_layers()[:-1], "is of 5 layers and task Tiny has 4; resume with the same task"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(finished: Path, layers: Any, words: str) -> None:
    from launch.job.stage_factory import build_stage  # optimizers take a second to import

    context = context_of(Tiny(layers), config(out=str(finished / "run"), cut=""))
    context.plan.start = 12
    stage, _ = build_stage(context.config, context.task, context.plan, 0, torch.device("cpu"))
    with pytest.raises(UserError, match=words):
        restore_stage(context, stage)
