"""Language models of characters and of words: settings, corpus, vocabulary, splits and scores.

Each is trained in several ways:

                   over time, in one process      in layers          a transformer
                   (through_time.py)              (layered.py)       (gpt.py)
    Characters     CharLM                         CharLMStack        CharGpt
    Words          WordLM                         WordLMStack        -
    BytePairs      -                              -                  BpeGpt
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from dni_async.checks import at_least
from dni_async.errors import UserError
from tasks.data_files import find_folder
from tasks.text.corpus import UNKNOWN, Texts, encode, read_text, vocabulary, words_of


@dataclass(kw_only=True)
class LanguageModel(ABC):
    """The next symbol of a text: the sizes of the model, and what depends on the kind of symbol."""

    score_name: ClassVar[str]
    separator: ClassVar[str]
    """What goes between symbols when they are printed."""

    core: str = "lstm"
    """lstm, gru or rnn."""
    width: int = 256
    """Units of the core."""
    layers: int = 1
    """Layers of the core."""
    embedding: int = 64
    """Width of the embedding; 0: that of the core."""
    dropout: float = 0.0
    """Share of units dropped."""

    def __post_init__(self) -> None:
        at_least(1, width=self.width)
        at_least(1, layers=self.layers)
        self.embedding = at_least(0, embedding=self.embedding) or self.width
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; it must be at least 0 and below 1")

    @abstractmethod
    def split(self, text: str) -> list[str]:
        """Return the symbols of a text."""

    @abstractmethod
    def texts(self, root: Path | None) -> Texts:
        """Read the data. Raises `dni_async.errors.UserError` when a file is missing or empty."""

    def numbers(self, text: str, symbols: tuple[str, ...]) -> list[int]:
        """Return a text as indices into the vocabulary. Raises UserError for what is not in it."""
        numbers: list[int] = encode(self.split(text), symbols).tolist()
        return numbers

    def continued(self, prompt: str, added: list[int], symbols: tuple[str, ...]) -> str:
        """Return the text of a prompt and of the symbols that follow it."""
        return self.separator.join([*self.split(prompt), *(symbols[number] for number in added)])

    def restored(self, files: Path, facts: Mapping[str, Any], root: Path | None) -> tuple[str, ...]:
        """Return the vocabulary of a trained model: that of its text, which is read again.

        Args:
            files: folder of the files that the run has saved (see `Task.files`).
            facts: the run's `Task.metadata`.

        Raises:
            UserError: it is not that of the model.
        """
        symbols = self.texts(root).symbols
        if len(symbols) != facts["symbols"]:
            raise UserError(
                f"the text has {len(symbols)} different symbols, and the model in {files.parent} was trained "
                f"on one of {facts['symbols']}; put that text where it was"
            )
        return symbols

    @abstractmethod
    def score(self, nats: float) -> float:
        """Return the score (see `score_name`) for a mean cross-entropy in nats per symbol."""

    def embedding_and_head(self, symbols: int) -> tuple[nn.Embedding, nn.Linear]:
        """Return a new embedding and a new head, whose weights are not tied."""
        embedding, head = nn.Embedding(symbols, self.embedding), nn.Linear(self.width, symbols)
        nn.init.uniform_(embedding.weight, -0.1, 0.1)
        nn.init.zeros_(head.bias)
        return embedding, head


@dataclass(kw_only=True)
class Characters(LanguageModel):
    """The next character of any text file; the last tenth of it is for validation and test, in halves."""

    score_name = "bits_per_char"
    separator = ""

    text: str = ""
    """A text file; by default tinyshakespeare/input.txt in the data folder."""

    @override
    def split(self, text: str) -> list[str]:
        return list(text)

    @override
    def texts(self, root: Path | None) -> Texts:
        file = "input.txt"
        text = read_text(Path(self.text) if self.text else default_folder(root, "text", (file,)) / file)
        symbols = vocabulary(text)
        numbers = encode(text, symbols)
        a, b = int(0.9 * len(numbers)), int(0.95 * len(numbers))
        return Texts(symbols, numbers[:a], numbers[a:b], numbers[b:])

    @override
    def score(self, nats: float) -> float:
        return nats / math.log(2)


@dataclass(kw_only=True)
class Words(LanguageModel):
    """The next word of texts in wikitext's layout: train, valid and test, one paragraph a line."""

    score_name = "perplexity"
    separator = " "

    width: int = 200
    layers: int = 2
    embedding: int = 0
    dropout: float = 0.2
    folder: str = ""
    """A folder with train.txt, valid.txt and test.txt, or wiki.train.tokens and so on; by default
    wikitext-2-excerpt in the data folder."""
    words: int = 0
    """Size of the vocabulary; 0: all words of the training text."""

    def __post_init__(self) -> None:
        LanguageModel.__post_init__(self)
        at_least(0, words=self.words)

    @override
    def split(self, text: str) -> list[str]:
        return words_of(text)[:-1] if text.strip() else []

    @override
    def texts(self, root: Path | None) -> Texts:
        """Read the three texts; words that the training text does not have are unknown."""
        names = ("wiki.train.tokens", "train.txt")
        folder = Path(self.folder) if self.folder else default_folder(root, "folder", names)
        texts = [words_of(read_text(split_file(folder, split))) for split in ("train", "valid", "test")]
        symbols = vocabulary(texts[0], self.words)
        if UNKNOWN not in symbols:
            symbols = (*symbols, UNKNOWN)
        train, validation, test = (encode(text, symbols) for text in texts)
        return Texts(symbols, train, validation, test)

    @override
    def score(self, nats: float) -> float:
        return math.exp(min(nats, 700.0))  # beyond this a float overflows


DEFAULT_FOLDERS = {"text": "tinyshakespeare", "folder": "wikitext-2-excerpt"}
"""Data set that is read when this setting is not given."""


def default_folder(root: Path | None, setting: str, names: tuple[str, ...]) -> Path:
    """Return the folder of the data set of `setting`, which has a file with one of these names."""
    found = find_folder(root, DEFAULT_FOLDERS[setting], *names)
    if found is None:
        where = f"no {DEFAULT_FOLDERS[setting]} in {root}" if root else "no text given"
        raise UserError(f"{where}; set --task-args {setting}=PATH, or --data-root")
    return found


def split_file(folder: Path, split: str) -> Path:
    """Return train.txt, or wikitext's own wiki.train.tokens where that exists."""
    official = folder / f"wiki.{split}.tokens"
    return official if official.exists() else folder / f"{split}.txt"
