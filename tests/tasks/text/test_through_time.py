"""Language models: data, shapes, and what their scores mean."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from dni_async.recurrent.core import RecurrentCore
from tasks.sequence.base import Window
from tasks.text.through_time import CharLM, LanguageTask, WordLM


def test_a_char_lm_takes_nine_tenths_of_a_text_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("abcdefghij" * 10)
    sequences = CharLM(text=str(tmp_path / "t")).sequences(None, 1, 0)
    assert sequences.symbols == tuple("abcdefghij")
    assert sum(window.y.numel() for window in sequences.training(7)) == 89
    assert [sum(w.y.numel() for w in sequences.evaluation(s)) for s in ("validation", "test")] == [4, 4]


@pytest.mark.parametrize("names", ["{}.txt", "wiki.{}.tokens"])
def test_a_word_lm_reads_wikitexts_layout_and_knows_unknown_words(tmp_path: Path, names: str) -> None:
    for split, text in {"train": "a a b\n", "valid": "a c\n", "test": "b d\n"}.items():
        (tmp_path / names.format(split)).write_text(text)
    sequences = WordLM(folder=str(tmp_path)).sequences(None, 1, 0)
    assert sequences.symbols == ("a", "<eos>", "b", "<unk>")
    (window,) = sequences.evaluation("validation")
    assert window.x.tolist() == [[0, 3]] and window.y.tolist() == [[3, 1]]
    assert WordLM(folder=str(tmp_path), words=1).sequences(None, 1, 0).symbols == ("a", "<unk>")


@pytest.mark.parametrize("core", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("task", [CharLM, WordLM])
def test_a_model_gives_a_logit_per_symbol_and_step(task: type[LanguageTask], core: str) -> None:
    model = task(core=core, width=8, layers=2).model(11)
    out, _ = RecurrentCore(model.core)(model.encoder(torch.zeros(3, 5, dtype=torch.long)))
    assert model.head(out).shape == (3, 5, 11)


def test_tied_weights_are_one_matrix() -> None:
    tied, free = (WordLM(width=8, tied=tied).model(50) for tied in (True, False))
    count = [sum(p.numel() for p in model.parameters()) for model in (tied, free)]
    assert count[1] - count[0] == 8 * 50
    with pytest.raises(UserError, match="tied weights need an embedding as wide"):
        CharLM(width=8, embedding=4, tied=True)


def test_dropout_is_off_in_evaluation_and_must_leave_something() -> None:
    model = WordLM(width=8, dropout=0.5).model(5)
    x = torch.zeros(1, 4, dtype=torch.long)
    assert not torch.equal(model.encoder(x), model.encoder(x))
    assert torch.equal(model.eval().encoder(x), model.encoder(x))
    assert sum(isinstance(module, nn.Dropout) for module in model.modules()) == 1  # one, used twice
    with pytest.raises(UserError, match=r"dropout is 1\.0"):
        WordLM(dropout=1.0)


def test_scores_are_bits_per_character_and_perplexity() -> None:
    window = Window(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long))
    total, count = CharLM().cost(torch.zeros(2, 3, 8), window)
    assert (total, count) == (pytest.approx(6 * math.log(8), rel=1e-5), 6)
    assert CharLM().scores(total / count)["bits_per_char"] == pytest.approx(3.0, rel=1e-5)
    assert WordLM().scores(total / count)["perplexity"] == pytest.approx(8.0, rel=1e-5)
    assert CharLM().loss(torch.zeros(2, 3, 8), window).item() == pytest.approx(math.log(8), rel=1e-5)


def test_a_text_must_be_given_somehow() -> None:
    with pytest.raises(UserError, match="no text given; set --task-args text=PATH"):
        CharLM().sequences(None, 1, 0)
    with pytest.raises(UserError, match="data folder is not a folder"):
        WordLM().sequences(Path("nowhere"), 1, 0)
    with pytest.raises(UserError, match="cannot read the file"):
        WordLM(folder="nowhere").sequences(None, 1, 0)
