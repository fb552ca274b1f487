"""A trained model over time comes back from disk, or one line says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dni_async.errors import UserError
from launch.recurrent.weights import load, save
from tasks.text.through_time import WordLM

SYMBOLS = ("a", "b", "<unk>")
ARGS = ("width=8", "layers=1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path, WordLM(width=8, layers=1).model(3), "word-lm", ARGS, SYMBOLS)
    return tmp_path


def test_a_model_with_tied_weights_comes_back(tmp_path: Path) -> None:
    model = WordLM(width=8, layers=1).model(3)
    save(tmp_path, model, "word-lm", ARGS, SYMBOLS)
    trained = load(tmp_path)
    assert (trained.task.name, trained.symbols) == ("word-lm", SYMBOLS)
    for mine, theirs in zip(trained.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.json", "model.safetensors"}


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trained model here .*model\.json is missing"):
        load(tmp_path)


def test_a_vocabulary_that_does_not_match_is_refused(folder: Path) -> None:
    path = folder / "model" / "model.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"symbols": ["a", "b"]}))
    with pytest.raises(UserError, match="do not fit the vocabulary of 2 symbols"):
        load(folder)


@pytest.mark.parametrize("text", ["{", "{}", '{"task": "word-lm", "task_args": 3, "symbols": []}'])
def test_a_damaged_description_is_refused(folder: Path, text: str) -> None:
    (folder / "model" / "model.json").write_text(text)
    with pytest.raises(UserError, match="description of the model is damaged"):
        load(folder)


def test_damaged_weights_are_refused(folder: Path) -> None:
    (folder / "model" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="do not fit"):
        load(folder)
