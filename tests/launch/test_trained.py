"""What a run has trained: its network predicts, and is measured as the run measured it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dni_async.errors import UserError
from launch.config.train import TrainConfig
from launch.evaluate import line_of
from launch.job.output_folder import save_files
from launch.predict import PredictConfig, predict
from launch.report.weights import save_part
from launch.trained import TrainedNetwork, load_run
from tasks.base import Task
from tasks.registry import create
from tasks.vision.digits import DigitsFcn
from tests.support.jobs import TINY, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("trained") / "run"
    done = run("launch.train", *TINY, "--stages", "1", "--epochs", "3", "--quiet", "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def trained(folder: Path) -> TrainedNetwork:
    return load_run(folder)


@pytest.fixture(scope="module")
def test_set() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = DigitsFcn(depth=3, width=32).data(None)[1].tensors  # type: ignore[attr-defined]
    return x, y


def test_a_loaded_network_is_measured_as_the_run_measured_it(trained: TrainedNetwork) -> None:
    measured = trained.evaluate()
    assert measured["test_accuracy"] == trained.summary["final"]["test_accuracy"]
    assert measured["test_loss"] == pytest.approx(trained.summary["final"]["test_loss"], rel=1e-4)
    assert measured["samples"] == trained.summary["dataset"]["test"]
    assert trained.evaluate("train")["samples"] == trained.summary["dataset"]["train"]
    line = line_of(trained, "test", measured)
    assert line.startswith("digits-fcn, cdni: test accuracy ") and line.endswith(" samples")


def test_predictions_of_arrays_and_tensors_are_the_outputs_of_the_model(
    trained: TrainedNetwork, test_set: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = test_set
    outputs = trained.predict(x, batch_size=64)
    assert torch.allclose(outputs, trained.model(x), atol=1e-6) and not outputs.requires_grad
    assert torch.equal(trained.predict(x.double().numpy(), batch_size=64), outputs)
    accuracy = float((outputs.argmax(1) == y).float().mean())
    assert accuracy == pytest.approx(trained.summary["final"]["test_accuracy"])


def test_another_test_set_than_that_of_the_run_is_refused_unless_its_folder_is_given(
    trained: TrainedNetwork, tmp_path: Path
) -> None:
    tested = trained.summary["dataset"]["test"]
    other = replace(trained, summary=trained.summary | {"dataset": {"train": 60_000, "test": 10_000}})
    with pytest.raises(UserError, match=f"found a test set of {tested} samples, and the run tested on 10000"):
        other.evaluate()
    assert other.evaluate(data_root=str(tmp_path))["samples"] == tested


def test_inputs_that_do_not_fit_are_one_line(trained: TrainedNetwork) -> None:
    for inputs, words in (
        (torch.zeros(3, 5), "the network does not take inputs"),
        (torch.zeros(()), "give tensors with the same number of rows"),
        ({}, "give tensors with the same number of rows"),
        ("abc", "inputs have 'abc', which is no array of numbers"),
        (None, "inputs have None, which is no array of numbers"),
        ([[1.0, 2.0], [3.0]], "which is no array of numbers"),
        ({"x": torch.zeros(2, 784), "name": "abc"}, "inputs have 'abc', which is no array of numbers"),
        ((torch.zeros(3, 784), torch.zeros(2, 784)), "give tensors with the same number of rows"),
    ):
        with pytest.raises(UserError, match=words) as error:
            trained.predict(inputs)
        assert "\n" not in str(error.value)
    for rows in (0, -5):
        with pytest.raises(UserError, match=f"batch_size is {rows}; it must be at least 1"):
            trained.predict(torch.zeros(3, 784), batch_size=rows)
    with pytest.raises(UserError, match=r"unknown data set \(dev\); use one of test, train, validation"):
        trained.evaluate("dev")


def test_a_file_of_inputs_gets_a_line_for_each_sample(
    folder: Path,
    trained: TrainedNetwork,
    test_set: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
) -> None:
    x = test_set[0][:5]
    outputs = trained.predict(x)
    numpy.save(tmp_path / "x.npy", x.numpy())
    numpy.savetxt(tmp_path / "x.csv", x.numpy(), delimiter=",")
    torch.save(x, tmp_path / "x.pt")
    for name in ("x.npy", "x.csv", "x.pt"):
        lines = predict(PredictConfig(run=str(folder), input=str(tmp_path / name)))
        assert [int(line.split()[0]) for line in lines] == outputs.argmax(1).tolist(), name
        assert all(0 < float(line.split()[1]) <= 1 for line in lines)
    for name, loaded in (("y.npy", numpy.load), ("y.csv", lambda p: numpy.loadtxt(p, delimiter=","))):
        path = str(tmp_path / name)
        assert predict(PredictConfig(run=str(folder), input=str(tmp_path / "x.npy"), to=path))
        assert numpy.allclose(loaded(path), outputs.numpy(), atol=1e-5), name


def test_a_wrong_file_or_folder_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"not an array")
    (tmp_path / "x.csv").write_text("a,b\n")
    save_file({"x": torch.zeros(2, 3)}, tmp_path / "x.safetensors")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "over_time").mkdir()
    over_time = {"task": "copy", "rule": "dni", "seed": 0, "settings": {}}
    (tmp_path / "over_time" / "summary.json").write_text(json.dumps(over_time))
    torch.save({"x": torch.zeros(2, 784), "name": "abc"}, tmp_path / "x.pt")
    shutil.copytree(folder, tmp_path / "other")
    summary = json.loads((folder / "summary.json").read_text())
    summary["settings"]["task_args"] = ["depth=3", "width=31"]
    (tmp_path / "other" / "summary.json").write_text(json.dumps(summary))
    for run_folder, name, words in (
        (folder, "x.npy", "no inputs that can be read"),
        (folder, "x.csv", "no inputs that can be read"),
        (folder, "x.safetensors", "the network does not take inputs"),
        (folder, "x.pt", "inputs have 'abc', which is no array of numbers"),
        (folder, "nothing.npy", "nothing.npy"),
        (tmp_path / "unfinished", "x.npy", "has no summary.json); give the --out of a run"),
        (tmp_path / "over_time", "x.npy", "is of a task over time"),
        (tmp_path / "other", "x.npy", "do not fit digits-fcn"),
    ):
        with pytest.raises(UserError) as error:
            predict(PredictConfig(run=str(run_folder), input=str(tmp_path / name)))
        assert words in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"input is x\.txt; the file's name must end in \.npy, "):
        PredictConfig(run="r", input="x.txt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is damaged"),
        ("null", "is of no run, or damaged"),
        ("[]", "is of no run, or damaged"),
        ('{"facts": {}}', "is of no run, or damaged"),
        ('{"task": "x"}', "is of no run, or damaged"),
        ('{"task": "x", "seed": 0, "settings": {}, "facts": {}}', "has neither engine nor rule"),
        ('{"task": "x", "seed": 0, "settings": {}, "facts": {}, "engine": "cdni"}', "is damaged"),
    ],
)
def test_a_damaged_summary_is_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UserError, match=rf"summary\.json {words}") as error:
        load_run(tmp_path)
    assert "\n" not in str(error.value)


def test_a_gpt_on_byte_pairs_is_evaluated_with_the_tokenizer_of_its_run(tmp_path: Path) -> None:
    """The file that --task-args named has changed since, and another tokenizer gives other numbers."""

    sizes = ("symbols=262", "width=8", "heads=2", "depth=1", "context=6")

    def made(name: str, text: str, *args: str) -> Task:
        (tmp_path / name).write_text(text)
        task = create("gpt-bpe", (f"text={tmp_path / name}", *sizes, *args))
        task.data(None)
        return task

    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_bytes(made("text", "abcdefgh" * 200).files["tokenizer.json"])
    task = made("text", "abcdefgh" * 200, f"tokenizer={tokenizer}")
    save_part(tmp_path, 0, 0, nn.Sequential(*task.layers()))
    save_files(tmp_path, task.files)
    args = (f"text={tmp_path / 'text'}", f"tokenizer={tokenizer}", *sizes)
    settings = TrainConfig.of(task="gpt-bpe", task_args=args, batch_size=8).as_json()
    summary = {"task": "gpt-bpe", "seed": 0, "engine": "cdni", "settings": settings, "stages": [{}]}
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"facts": dict(task.metadata)}))
    before = load_run(tmp_path).evaluate()
    tokenizer.write_bytes(made("other", "hgfedcba" * 200).files["tokenizer.json"])
    assert load_run(tmp_path).evaluate() == before
    (tmp_path / "files" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    with pytest.raises(UserError, match="is not the one that the model was trained with"):
        load_run(tmp_path)
