"""Language models in layers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from dni_async.recurrent.core import RecurrentCore
from dni_async.recurrent.stateful_rnn import StatefulRNN
from tasks.sequence.stateful import WINDOW_ENDS
from tasks.text.layered import CharLMStack, LanguageStack, WordLMStack
from tasks.text.through_time import CharLM

TEXT = "to be or not to be, that is the question. " * 30


def chars(folder: Path, text: str = TEXT, **settings: Any) -> CharLMStack:
    """Has read its data."""
    (folder / "text").write_text(text)
    sizes: dict[str, Any] = {"width": 8, "embedding": 6, **settings}
    task = CharLMStack(text=str(folder / "text"), **sizes)
    task.data(None)
    return task


def words(folder: Path, **settings: int) -> WordLMStack:
    """Has read its data: 203 words, one of them unknown."""
    for split, text in {"train": "a b c " * 90, "valid": "b", "test": "c a z " * 5}.items():
        vocabulary = " ".join(f"w{i}" for i in range(198)) if split == "train" else ""
        (folder / f"{split}.txt").write_text(f"{text} {vocabulary}")
    task = WordLMStack(folder=str(folder), width=8, **settings)
    task.data(None)
    return task


@pytest.mark.parametrize("core", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_there_is_a_layer_for_each_recurrent_one_between_embedding_and_head(
    tmp_path: Path, core: str, layers: int
) -> None:
    task = chars(tmp_path, layers=layers, core=core)
    parts = task.layers()
    assert len(parts) == layers + 2
    assert [any(isinstance(m, StatefulRNN) for m in part.modules()) for part in parts] == [
        False,
        *[True] * layers,
        False,
    ]
    shapes, x = [], torch.zeros(3, 5, dtype=torch.long)
    for part in parts:
        x = part(x)
        shapes.append(tuple(x.shape))
    assert shapes == [(3, 5, 6), *[(3, 5, 8)] * layers, (3, 5, task.metadata["symbols"])]


def test_with_one_recurrent_layer_the_stack_equals_the_model_that_is_trained_over_time(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    task = chars(tmp_path, layers=1)
    layers = nn.Sequential(*task.layers()).eval()
    model = CharLM(width=8, embedding=6).model(task.metadata["symbols"]).eval()
    assert [p.shape for p in layers.parameters()] == [p.shape for p in model.parameters()]
    model.load_state_dict(dict(zip(model.state_dict(), layers.state_dict().values(), strict=True)))
    x, core = torch.randint(0, 9, (2, 12)), RecurrentCore(model.core)
    torch.testing.assert_close(layers(x), model.head(core(model.encoder(x))[0]))


def test_dropout_lies_between_all_layers(tmp_path: Path) -> None:
    layers = chars(tmp_path, dropout=0.5, layers=2).layers()
    assert [sum(isinstance(m, nn.Dropout) for m in part.modules()) for part in layers] == [1, 1, 1, 0]
    assert all(m.p == 0.5 for part in layers for m in part.modules() if isinstance(m, nn.Dropout))


@pytest.mark.parametrize("end", WINDOW_ENDS)
def test_what_ends_a_window_may_be_chosen(tmp_path: Path, end: str) -> None:
    layers = nn.Sequential(*chars(tmp_path, end=end).layers())
    for _ in range(2):
        layers(torch.zeros(3, 5, dtype=torch.long)).sum().backward()
    kinds = {type(m.through_time.predictor).__name__ for m in layers.modules() if isinstance(m, StatefulRNN)}
    assert kinds == {{"bptt": "NoneType", "dni": "CalibratedPredictor", "dni-permuted": "_Permuted"}[end]}


def test_a_sample_is_a_window_and_the_test_text_is_one_row(tmp_path: Path) -> None:
    task = chars(tmp_path, TEXT * 10, bptt=7)
    train, test = task.data(None)
    count = len(TEXT) * 10
    assert train.tensors[0].shape == ((int(0.9 * count) - 1) // 7, 7)
    assert test.tensors[0].shape == ((count - int(0.95 * count) - 1) // 256, 256)
    assert (train.rows, test.rows) == (None, 1)
    assert torch.equal(test.tensors[0].flatten()[1:], test.tensors[1].flatten()[:-1])


def test_the_validation_text_is_one_row_between_the_other_two(tmp_path: Path) -> None:
    task, text = chars(tmp_path, TEXT * 10), TEXT * 10
    _, test = task.data(None)
    validation = task.validation(None)
    a, b = int(0.9 * len(text)), int(0.95 * len(text))
    assert validation.tensors[0].shape == ((b - a - 1) // 256, 256) and validation.rows == 1
    known = {symbol: i for i, symbol in enumerate(task.language.texts(None).symbols)}
    assert validation.tensors[0].flatten()[:9].tolist() == [known[symbol] for symbol in text[a : a + 9]]
    assert test.tensors[0].flatten()[:9].tolist() == [known[symbol] for symbol in text[b : b + 9]]


def test_a_short_test_text_is_one_piece(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abcdefghij" * 10)
    _, test = CharLMStack(text=str(tmp_path / "text")).data(None)
    assert test.tensors[0].shape == (1, 4)


def test_reports_show_bits_per_character_and_perplexity(tmp_path: Path) -> None:
    task: LanguageStack
    for task, name, shown in ((chars(tmp_path), "bits_per_char", 3.0), (words(tmp_path), "perplexity", 8.0)):
        output, y = torch.zeros(2, 3, 8), torch.ones(2, 3, dtype=torch.long)
        assert task.metric(output, y).tolist() == pytest.approx([math.log(8)] * 2)
        assert task.loss(output, y).item() == pytest.approx(math.log(8))
        assert task.reported(math.log(8)) == pytest.approx(shown)
        assert task.metric_name == name


def test_the_metric_is_of_each_row() -> None:
    output = torch.randn(2, 3, 5)
    y = torch.tensor([[0, 1, 2], [3, 4, 0]])
    task = CharLMStack()
    torch.testing.assert_close(task.metric(output, y).mean(), task.loss(output, y))
    torch.testing.assert_close(task.metric(output, y)[:1], task.metric(output[:1], y[:1]))


def test_sg_networks_see_the_next_symbol_of_each_step(tmp_path: Path) -> None:
    task, y = chars(tmp_path), torch.tensor([[1, 0, 2]])
    seen = task.condition(y)
    assert seen.shape == (1, 3, task.metadata["symbols"]) and seen.argmax(2).tolist() == y.tolist()
    assert seen.sum().item() == 3.0


def test_of_a_large_vocabulary_sg_networks_see_a_code_that_all_processes_share(tmp_path: Path) -> None:
    task, other = words(tmp_path), words(tmp_path)
    symbols = task.metadata["symbols"]
    assert symbols > 128
    codes = task.condition(torch.arange(symbols).unsqueeze(0))[0]
    assert codes.shape == (symbols, 64) and len(codes.unique(dim=0)) == symbols
    assert torch.equal(other.condition(torch.tensor([[3, 5]])), codes[[3, 5]].unsqueeze(0))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UserError, match="end is exact; use one of bptt, dni, dni-permuted"):
        CharLMStack(end="exact")
    with pytest.raises(UserError, match="bptt is 0; it must be at least 1"):
        WordLMStack(bptt=0)
    with pytest.raises(UserError, match="no text given; set --task-args text=PATH"):
        CharLMStack().data(None)
