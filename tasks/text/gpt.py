"""A small GPT: a decoder-only transformer that predicts the next symbol at every position."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from typing_extensions import override

from dni_async.checks import at_least
from dni_async.errors import UserError
from tasks.base import Task
from tasks.text.byte_pairs import TOKENIZER, BytePairs
from tasks.text.language import Characters, LanguageModel
from tasks.transformer import check_heads, decoder


class GptTask(Task):
    """A sample is a window of `context` symbols (T,), and the symbol that follows each of them (T,).

    The windows of an epoch lie at equal distances in the training text, and are shuffled. The metric is nats
    per symbol that counts, reported as bits per character or perplexity.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "batch_size": 8,
        "optimizer": "adamw",
        "optimizer_args": ("betas=0.9,0.99", "weight_decay=0.1"),
        "param_groups": (
            "*.bias:weight_decay=0",
            "LayerNorm.*:weight_decay=0",
            "Embedding.*:weight_decay=0",
        ),
        "lr": 3e-3,
        "schedule": "cosine",
        "warmup": 0.05,
    }

    def __init__(
        self,
        language: LanguageModel,
        *,
        depth: int,
        width: int,
        heads: int,
        context: int,
        rope: bool,
        windows: int,
    ) -> None:
        """Windows: of an epoch; 0: as many as the text has side by side."""
        self.language = language
        self.metric_name = language.score_name
        self.depth, self.width = at_least(1, depth=depth), at_least(1, width=width)
        self.heads, self.context = at_least(1, heads=heads), at_least(1, context=context)
        self.rope, self.windows = rope, at_least(0, windows=windows)
        check_heads(width, heads, rope)

    @property
    def classes(self) -> int | None:  # type: ignore[override]
        """The size of the vocabulary; None before `data` has read it."""
        return self.metadata.get("symbols")

    @override
    def layers(self) -> list[nn.Module]:
        """Return embedding, blocks, and norm with output layer."""
        return decoder(
            self.metadata["symbols"],
            depth=self.depth,
            width=self.width,
            heads=self.heads,
            context=self.context,
            rope=self.rope,
        )

    @override
    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        """Return windows of the training text and of the test text."""
        texts = self.language.texts(root)
        self.metadata = {"symbols": len(texts.symbols)}
        return windows(texts.train, self.context, self.windows), windows(texts.test, self.context)

    @override
    def validation(self, root: Path | None) -> TensorDataset:
        return windows(self.language.texts(root).validation, self.context)

    @override
    def metric(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (N,) cross-entropies of the symbols that count (nats)."""
        valid = self.valid(y)
        return F.cross_entropy(output[valid], y[valid].long(), reduction="none")

    @override
    def reported(self, mean: float) -> float:
        return self.language.score(mean)


def windows(text: Tensor, length: int, count: int = 0) -> TensorDataset:
    """Return windows x (count, length) of a text (N,), and the symbol that follows each, y (count, length).

    They begin at equal distances. With count 0 they lie side by side.

    Raises:
        UserError: the text has no window of this length.
    """
    last = len(text) - length - 1  # where the last window may begin
    if last < 0:
        raise UserError(
            f"a text of {len(text)} symbols has no window of {length} and the symbol that follows; "
            "give a longer text or a smaller context"
        )
    starts = torch.arange(0, last + 1, length)
    if count:
        starts = torch.linspace(0, last, count, dtype=torch.float64).round().long()
    places = starts[:, None] + torch.arange(length)
    return TensorDataset(text[places], text[places + 1])


class CharGpt(GptTask):
    """GPT on characters; see `Characters`."""

    name = "gpt-char"

    def __init__(
        self,
        *,
        text: str = "",
        depth: int = 4,
        width: int = 64,
        heads: int = 4,
        context: int = 64,
        rope: bool = False,
        windows: int = 0,
    ) -> None:
        """Text: a file, by default tinyshakespeare/input.txt in the data folder; depth: blocks; windows:
        those of an epoch, 0 for as many as lie side by side in the text."""
        super().__init__(
            Characters(text=text),
            depth=depth,
            width=width,
            heads=heads,
            context=context,
            rope=rope,
            windows=windows,
        )


class BpeGpt(GptTask):
    """GPT on tokens of a byte-level BPE; see `BytePairs`."""

    name = "gpt-bpe"
    language: BytePairs

    def __init__(
        self,
        *,
        text: str = "",
        folder: str = "",
        symbols: int = 2048,
        tokenizer: str = "",
        depth: int = 4,
        width: int = 64,
        heads: int = 4,
        context: int = 64,
        rope: bool = False,
        windows: int = 0,
    ) -> None:
        """Text: a file, by default tinyshakespeare/input.txt in the data folder; folder: instead of it, one
        with train.txt, valid.txt and test.txt, or wiki.train.tokens and so on; symbols: size of the
        vocabulary; tokenizer: a tokenizer.json to use instead of training one; depth: blocks; windows: those
        of an epoch, 0 for as many as lie side by side in the text."""
        super().__init__(
            BytePairs(text=text, folder=folder, symbols=symbols, tokenizer=tokenizer),
            depth=depth,
            width=width,
            heads=heads,
            context=context,
            rope=rope,
            windows=windows,
        )

    @override
    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        """Return windows of the training text and of the test text, as tokens."""
        sets = super().data(root)
        self.metadata = {**self.metadata, "tokenizer": self.language.digest()}
        self.files = {TOKENIZER: self.language.content()}
        return sets

    @override
    def restore_files(self, folder: Path) -> None:
        self.language.restored(folder, self.metadata, None)
