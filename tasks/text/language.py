"""Language models of characters and of words."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.errors import UserError
from tasks.sequence.base import SequenceModel, SequenceTask, Window, recurrent
from tasks.text.corpus import UNKNOWN, Texts, TextSequences, encode, read_text, vocabulary, words_of
from tasks.vision.digits import at_least


class LanguageTask(SequenceTask):
    """Predict the next symbol of a text."""

    joint = ""
    """What goes between symbols when they are printed."""

    def __init__(
        self, core: str, width: int, layers: int, embedding: int, dropout: float, tied: bool
    ) -> None:
        self.core, self.width, self.layers = core, at_least(1, width=width), at_least(1, layers=layers)
        self.embedding = at_least(0, embedding=embedding) or width
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it must be at least 0 and below 1")
        if tied and self.embedding != width:
            raise UserError(
                f"tied weights need an embedding as wide as the core ({self.embedding} and {width}); "
                "set embedding=0 or tied=no"
            )
        self.dropout, self.tied = dropout, tied

    def model(self, symbols: int) -> SequenceModel:
        """Embedding, core, linear head, with dropout between them; tied: the head's weights are the
        embedding's."""
        embedding, head = self.ends(symbols)
        if self.tied:
            head.weight = embedding.weight
        core = recurrent(self.core, self.embedding, self.width, self.layers, self.dropout)
        drop = nn.Dropout(self.dropout)
        return SequenceModel(nn.Sequential(embedding, drop), core, nn.Sequential(drop, head))

    def ends(self, symbols: int) -> tuple[nn.Embedding, nn.Linear]:
        """New embedding and head, not tied."""
        embedding, head = nn.Embedding(symbols, self.embedding), nn.Linear(self.width, symbols)
        nn.init.uniform_(embedding.weight, -0.1, 0.1)
        nn.init.zeros_(head.bias)
        return embedding, head

    def split(self, text: str) -> list[str]:
        """A text in symbols."""
        raise NotImplementedError

    def texts(self, root: Path | None) -> Texts:
        """Read the data. Raises `dni_async.errors.UserError` when a file is missing or empty."""
        raise NotImplementedError

    def sequences(self, root: Path | None, batch_size: int, seed: int) -> TextSequences:
        """The texts, that to train on in rows."""
        return TextSequences(*self.texts(root), batch_size)

    def loss(self, out: Tensor, window: Window) -> Tensor:
        """Mean cross-entropy of a step (nats)."""
        return F.cross_entropy(out.flatten(0, 1), window.y.flatten())

    def cost(self, out: Tensor, window: Window) -> tuple[float, int]:
        """Nats over all steps."""
        total = F.cross_entropy(out.flatten(0, 1), window.y.flatten(), reduction="sum")
        return float(total), window.y.numel()


class CharLM(LanguageTask):
    """The next character of any text file; the last tenth of it is for validation and test, in halves."""

    score_name = "bits_per_char"

    def __init__(
        self,
        text: str = "",
        core: str = "lstm",
        width: int = 256,
        layers: int = 1,
        embedding: int = 64,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        """Text: a file (tinyshakespeare/input.txt in the data folder); core: lstm, gru or rnn; width: its
        units; layers: of the core; embedding: its width (0: that of the core); dropout: share of units
        dropped; tied: one matrix for embedding and output."""
        super().__init__(core, width, layers, embedding, dropout, tied)
        self.text = text

    @property
    def name(self) -> str:
        """What reports call this task."""
        return "char-lm"

    def texts(self, root: Path | None) -> Texts:
        """The text in characters: 90 % to train on, 5 % to validate, 5 % to test."""
        text = read_text(located(self.text, root, "tinyshakespeare", "input.txt", "text"))
        symbols = vocabulary(text)
        numbers = encode(text, symbols)
        a, b = int(0.9 * len(numbers)), int(0.95 * len(numbers))
        return Texts(symbols, numbers[:a], numbers[a:b], numbers[b:])

    def split(self, text: str) -> list[str]:
        """Its characters."""
        return list(text)

    def scores(self, cost: float) -> dict[str, float]:
        """Bits per character."""
        return {"bits_per_char": cost / math.log(2)}


class WordLM(LanguageTask):
    """The next word of texts in wikitext's layout: train, valid and test, one paragraph a line."""

    score_name = "perplexity"
    joint = " "

    def __init__(
        self,
        folder: str = "",
        core: str = "lstm",
        width: int = 200,
        layers: int = 2,
        embedding: int = 0,
        dropout: float = 0.2,
        tied: bool = True,
        words: int = 0,
    ) -> None:
        """Folder: with train.txt, valid.txt and test.txt, or wiki.train.tokens and so on (wikitext-2-excerpt
        in the data folder); words: size of the vocabulary (0: all of train); the rest as char-lm."""
        super().__init__(core, width, layers, embedding, dropout, tied)
        self.folder, self.words = folder, at_least(0, words=words)

    @property
    def name(self) -> str:
        """What reports call this task."""
        return "word-lm"

    def texts(self, root: Path | None) -> Texts:
        """The three texts in words; words that train does not have are unknown."""
        folder = located(self.folder, root, "wikitext-2-excerpt", "", "folder")
        texts = [words_of(read_text(_split_file(folder, split))) for split in ("train", "valid", "test")]
        symbols = vocabulary(texts[0], self.words)
        if UNKNOWN not in symbols:
            symbols = (*symbols, UNKNOWN)
        train, validation, test = (encode(text, symbols) for text in texts)
        return Texts(symbols, train, validation, test)

    def split(self, text: str) -> list[str]:
        """Its words."""
        return words_of(text)[:-1] if text.strip() else []

    def scores(self, cost: float) -> dict[str, float]:
        """Perplexity, without overflow."""
        return {"perplexity": math.exp(min(cost, 700.0))}


def located(given: str, root: Path | None, folder: str, file: str, setting: str) -> Path:
    """What the user gave, or the usual place in the data folder."""
    if given:
        return Path(given)
    if root is None:
        raise UserError(f"no text given; set --task-args {setting}=PATH, or --data-root")
    return root / folder / file if file else root / folder


def _split_file(folder: Path, split: str) -> Path:
    """train.txt, or wikitext's own wiki.train.tokens."""
    official = folder / f"wiki.{split}.tokens"
    return official if official.exists() else folder / f"{split}.txt"
