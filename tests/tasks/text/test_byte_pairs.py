"""A byte-level BPE vocabulary, and the GPT on its tokens."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from tasks.registry import create
from tasks.text import byte_pairs
from tasks.text.byte_pairs import TOKENIZER, BytePairs
from tasks.text.gpt import BpeGpt

pytestmark = pytest.mark.usefixtures("cache")

TEXT = "the cat sat on the mat. Grüße, 你好!\n" * 60


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def pairs(text: Path, **settings: Any) -> BytePairs:
    return BytePairs(text=str(text), **{"symbols": 280} | settings)


def test_the_three_texts_are_tokens_that_decode_to_them(text: Path) -> None:
    language = pairs(text)
    texts = language.texts(None)
    assert len(texts.symbols) == 280
    parts = [language.trained.decode(part.tolist()) for part in (texts.train, texts.validation, texts.test)]
    a, b = int(0.9 * len(TEXT)), int(0.95 * len(TEXT))
    assert parts == [TEXT[:a], TEXT[a:b], TEXT[b:]]
    assert len(texts.train) < len(TEXT[:a]) / 2


def test_the_score_is_in_bits_per_byte(text: Path) -> None:
    language = pairs(text)
    test = language.texts(None).test
    total = 3.0 * len(test)  # nats
    size = len(TEXT[int(0.95 * len(TEXT)) :].encode())
    assert language.score(3.0) == pytest.approx(total / math.log(2) / size)


def test_a_tokenizer_is_trained_once_for_a_text_and_a_size(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    train = byte_pairs._trained

    def counted(content: str, symbols: int) -> Any:
        trained.append(symbols)
        return train(content, symbols)

    monkeypatch.setattr(byte_pairs, "_trained", counted)
    digests = []
    for symbols in (280, 280, 270):
        language = pairs(text, symbols=symbols)
        language.texts(None)
        digests.append(language.digest())
    assert trained == [280, 270]
    assert digests[0] == digests[1] != digests[2]


def test_a_damaged_tokenizer_in_the_cache_is_trained_again(text: Path, cache: Path) -> None:
    first = pairs(text)
    first.texts(None)
    [cached] = (cache / "tokenizers").glob("*.json")
    cached.write_text("{")
    second = pairs(text)
    second.texts(None)
    assert second.digest() == first.digest()


def test_truncation_and_padding_of_a_tokenizer_have_no_effect(text: Path, tmp_path: Path) -> None:
    plain = pairs(text)
    wanted = plain.texts(None)
    plain.trained.enable_truncation(5)
    plain.trained.enable_padding(length=4096)
    plain.trained.save(str(tmp_path / TOKENIZER))
    texts = pairs(text, tokenizer=str(tmp_path / TOKENIZER)).texts(None)
    assert torch.equal(texts.train, wanted.train) and torch.equal(texts.test, wanted.test)


@pytest.mark.parametrize("unknown", [None, "<unk>"])
@pytest.mark.parametrize("characters", ["", "acehmnost ."])
def test_a_tokenizer_without_symbols_for_the_text_is_one_line(
    text: Path, tmp_path: Path, characters: str, unknown: str | None
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    symbols = [*characters, *([unknown] if unknown else [])]
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    path = tmp_path / TOKENIZER
    tokenizers.Tokenizer(tokenizers.models.BPE(vocab=numbers, merges=[], unk_token=unknown)).save(str(path))
    with pytest.raises(UserError, match="has no symbols for some characters of the text; give one that"):
        pairs(text, tokenizer=str(path)).texts(None)


def test_a_folder_in_the_layout_of_wikitext_has_its_own_test_text(tmp_path: Path) -> None:
    for split, content in (("train", TEXT), ("valid", "a cat\n"), ("test", "a mat\n")):
        (tmp_path / f"wiki.{split}.tokens").write_text(content, encoding="utf-8")
    language = BytePairs(folder=str(tmp_path), symbols=280)
    texts = language.texts(None)
    assert language.trained.decode(texts.test.tolist()) == "a mat\n"


def test_a_tokenizer_of_a_file_is_used_as_it_is(text: Path, tmp_path: Path) -> None:
    first = pairs(text)
    first.texts(None)
    (tmp_path / "own.json").write_bytes(first.content())
    text.write_text("other words, of which the tokenizer knows the bytes\n" * 20)
    second = pairs(text, tokenizer=str(tmp_path / "own.json"), symbols=4096)
    assert len(second.texts(None).symbols) == 280
    assert second.digest() == first.digest()


@pytest.mark.parametrize("content", ["", "{}", "no JSON"])
def test_a_file_that_is_no_tokenizer_is_refused(text: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"own.json is no tokenizer.json \(.+\); give one of the library"):
        pairs(text, tokenizer=str(path)).texts(None)


def test_settings_that_exclude_each_other_and_small_vocabularies_are_refused() -> None:
    with pytest.raises(UserError, match="text=a and folder=b are both given; give one of them"):
        BytePairs(text="a", folder="b")
    with pytest.raises(UserError, match="symbols is 255; it must be at least 256"):
        BytePairs(symbols=255)


def test_the_task_knows_its_vocabulary_and_has_its_tokenizer_as_a_file(text: Path) -> None:
    task = create("gpt-bpe", [f"text={text}", "symbols=280", "context=8", "width=8", "heads=2", "depth=1"])
    assert isinstance(task, BpeGpt)
    train, _ = task.data(None)
    assert task.classes == 280
    assert json.loads(task.files[TOKENIZER])["model"]["type"] == "BPE"
    x, _ = train[:2]
    assert nn.Sequential(*task.layers())(x).shape == (2, 8, 280)
    assert torch.equal(task.valid(x), torch.ones_like(x, dtype=torch.bool))
    json.dumps(dict(task.metadata))
