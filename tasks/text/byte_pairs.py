"""A byte-level BPE vocabulary, trained on the text or read from a tokenizer.json of the library `tokenizers`.

        text ──► train (or cached, or `tokenizer=FILE`) ──► tokens ──► GPT
                          └──► files/tokenizer.json of the run ──► launch.generate

Every byte is a symbol, so any text can be encoded. The score is in bits per byte, so that it can be compared
between vocabularies.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from dni_async.checks import at_least
from dni_async.errors import UserError
from tasks.data_files import cache_folder, read_data
from tasks.text.corpus import Texts, read_text
from tasks.text.language import LanguageModel, default_folder, split_file

TOKENIZER = "tokenizer.json"
"""Name of the file in a run's folder."""
BYTES = 256
CHECKED = 10_000
"""Characters of the training text whose tokens have to cover them."""


@dataclass(kw_only=True)
class BytePairs(LanguageModel):
    """The next token of a text; its symbols are byte sequences that are frequent in the training text."""

    score_name = "bits_per_byte"
    separator = ""

    text: str = ""
    """A text file, of which the last tenth is for validation and test, in halves."""
    folder: str = ""
    """Or a folder with train.txt, valid.txt and test.txt, or wiki.train.tokens and so on."""
    symbols: int = 2048
    """Size of the vocabulary; a short text may have fewer pairs to merge."""
    tokenizer: str = ""
    """A tokenizer.json to use instead of training one."""
    trained: Any = field(default=None, init=False)
    """The tokenizer, once `texts` or `load` has made it."""
    restored_tokenizer: Any = field(default=None, init=False)
    """The tokenizer of a finished run, once `restored` has read it."""
    bytes_per_symbol: float = field(default=1.0, init=False)
    """Of the test text."""

    def __post_init__(self) -> None:
        at_least(BYTES, symbols=self.symbols)
        if self.text and self.folder:
            raise UserError(f"text={self.text} and folder={self.folder} are both given; give one of them")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"restored_tokenizer": None}  # a new training makes its own

    @override
    def split(self, text: str) -> list[str]:
        tokens: list[str] = _encoding(self.trained, text).tokens
        return tokens

    @override
    def numbers(self, text: str, symbols: tuple[str, ...]) -> list[int]:
        numbers: list[int] = _encoding(self.trained, text).ids
        return numbers

    @override
    def continued(self, prompt: str, added: list[int], symbols: tuple[str, ...]) -> str:
        whole: str = self.trained.decode(self.numbers(prompt, symbols) + added)
        return whole

    @override
    def texts(self, root: Path | None) -> Texts:
        """Read the three texts, and train the tokenizer on the first unless one is given or restored."""
        train, *held_out = self._raw(root)
        if self.restored_tokenizer is not None:
            self.trained = self.restored_tokenizer
        elif self.tokenizer:
            self.trained = _read(Path(self.tokenizer))
            _check_covers(self.trained, train[:CHECKED], Path(self.tokenizer))
        else:
            self.trained = _cached(train, self.symbols)
        tokens = [_encoded(self.trained, text) for text in (train, *held_out)]
        self.bytes_per_symbol = len(held_out[-1].encode()) / len(tokens[-1])
        return Texts(self._symbols(), *tokens)

    @override
    def restored(self, files: Path, facts: Mapping[str, Any], root: Path | None) -> tuple[str, ...]:
        path = files / TOKENIZER
        if not path.exists():
            raise UserError(f"there is no {path}, which the run wrote when it began; put it back")
        self.trained = _read(path)
        if self.digest() != facts.get("tokenizer"):
            raise UserError(
                f"the tokenizer in {path} has {len(self._symbols())} symbols and is not the one that the "
                f"model was trained with (of {facts['symbols']}); put that file back"
            )
        self.restored_tokenizer = self.trained
        return self._symbols()

    @override
    def score(self, nats: float) -> float:
        return nats / math.log(2) / self.bytes_per_symbol

    def content(self) -> bytes:
        """Return the tokenizer as the content of a tokenizer.json."""
        text: str = self.trained.to_str()
        return text.encode()

    def digest(self) -> str:
        """Return what tells this tokenizer from others."""
        return hashlib.sha256(self.content()).hexdigest()[:16]

    def _symbols(self) -> tuple[str, ...]:
        return tuple(self.trained.id_to_token(i) or "" for i in range(self.trained.get_vocab_size()))

    def _raw(self, root: Path | None) -> tuple[str, str, str]:
        """Return the training, validation and test text."""
        if self.folder:
            train, validation, test = (
                read_text(split_file(Path(self.folder), split)) for split in ("train", "valid", "test")
            )
            return train, validation, test
        file = "input.txt"
        text = read_text(Path(self.text) if self.text else default_folder(root, "text", (file,)) / file)
        a, b = int(0.9 * len(text)), int(0.95 * len(text))
        return text[:a], text[a:b], text[b:]


def _library() -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("task gpt-bpe needs the package tokenizers; pip install 'dni-async[text]'") from error
    return tokenizers


def _read(path: Path) -> Any:
    content = read_data(path)
    try:
        tokenizer = _library().Tokenizer.from_str(content.decode())
        tokenizer.no_truncation()  # a text is one sequence
        tokenizer.no_padding()
        return tokenizer
    except UserError:
        raise
    except Exception as error:  # the library raises nothing more special
        cause = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path} is no tokenizer.json ({cause}); give one of the library tokenizers"
        ) from None


def _cached(text: str, symbols: int) -> Any:
    """Return a tokenizer trained on the text, from the cache if the same was trained before."""
    version = _library().__version__
    key = hashlib.sha256(f"{version} {symbols} {text}".encode()).hexdigest()
    path = cache_folder() / "tokenizers" / f"{key}.json"
    with contextlib.suppress(UserError):
        return _read(path)
    trained = _trained(text, symbols)
    with contextlib.suppress(OSError):  # it is trained again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        trained.save(str(temporary))
        temporary.replace(path)
    return trained


def _trained(text: str, symbols: int) -> Any:
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=symbols,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def _encoded(tokenizer: Any, text: str) -> Tensor:
    return torch.tensor(_encoding(tokenizer, text).ids, dtype=torch.long)


def _encoding(tokenizer: Any, text: str) -> Any:
    """Return the library's encoding of a text, without symbols such as [CLS] around it."""
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:  # the library raises nothing more special
        cause = " ".join(str(error).split())[:120]
        raise UserError(f"the tokenizer cannot encode {text[:40]!r} ({cause}); give another one") from None


def _check_covers(tokenizer: Any, text: str, path: Path) -> None:
    """Raise UserError if tokens leave characters of the text out, or take them for the unknown symbol."""
    encoding, unknown, end = _encoding(tokenizer, text), _unknown(tokenizer), 0
    for number, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
        if number == unknown or text[end:first].strip():
            break
        end = max(end, last)
    if text[end:].strip():
        raise UserError(
            f"the tokenizer in {path} has no symbols for some characters of the text; give one that has "
            "symbols for all, such as a byte-level one"
        )


def _unknown(tokenizer: Any) -> int | None:
    """Return the index of the symbol for what is not in the vocabulary."""
    name = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.token_to_id(name) if name else None
