"""Language models in layers, so that they can be cut into stages between the recurrent layers.

embedding │ core │ ... │ core │ head          every core carries its state from window to window, and has
                                              a synthetic gradient through time at each window's end
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dni_async.checks import at_least
from tasks.base import Task
from tasks.contiguous import ContiguousBatches, text_chunks
from tasks.sequence.base import recurrent
from tasks.sequence.stateful import check_window_end, stateful_layer
from tasks.text.language import Characters, LanguageModel, Words
from tasks.text.through_time import EVALUATION_STEPS

ONE_HOT, CODE = 128, 64
"""SG networks see up to ONE_HOT symbols one-hot, a larger vocabulary by random codes of width CODE."""


class LanguageStack(Task):
    """A language model in layers. A sample is `bptt` symbols in a row; batches take the text side by side.

    Evaluation goes through a whole text in one row, state carried from its start to its end. Its metric is
    nats per symbol, reported as bits per character or perplexity.
    """

    carries_state = True
    keywords_of: type[LanguageModel]
    """The settings that the constructor takes beside its own."""

    def __init__(self, *, bptt: int = 16, end: str = "dni", layers: int = 2, **settings: Any) -> None:
        """Bptt: time steps of a window, which is one update; end: what ends a window of truncated BPTT, bptt
        (nothing), dni (a synthetic gradient) or dni-permuted (a control)."""
        self.language = self.keywords_of(layers=layers, **settings)
        self.bptt, self.end = at_least(1, bptt=bptt), check_window_end(end)
        self.metric_name = self.language.score_name
        self._codes: Tensor | None = None

    @override
    def layers(self) -> list[nn.Module]:
        """Return embedding, recurrent layers and head, with dropout between them."""
        language = self.language
        embedding, head = language.embedding_and_head(self.metadata["symbols"])
        drop = [nn.Dropout(language.dropout) for _ in range(language.layers + 1)]
        widths = [language.embedding] + [language.width] * (language.layers - 1)
        cores = [
            stateful_layer(recurrent(language.core, width, language.width), self.end) for width in widths
        ]
        between = zip(cores, drop[1:], strict=True)
        return [nn.Sequential(embedding, drop[0]), *(nn.Sequential(*pair) for pair in between), head]

    @override
    def data(self, root: Path | None) -> tuple[ContiguousBatches, ContiguousBatches]:
        """Return windows of the training text and of the test text."""
        texts = self.language.texts(root)
        self.metadata = {"symbols": len(texts.symbols)}
        return text_chunks(texts.train, self.bptt), _in_one_row(texts.test)

    @override
    def validation(self, root: Path | None) -> ContiguousBatches:
        return _in_one_row(self.language.texts(root).validation)

    @override
    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross-entropy of a step (nats)."""
        return F.cross_entropy(output.flatten(0, 1), y.flatten())

    @override
    def metric(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (B,) mean cross-entropy of the steps of each row (nats)."""
        return F.cross_entropy(output.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)

    @override
    def reported(self, mean: float) -> float:
        return self.language.score(mean)

    @override
    def condition(self, y: Tensor) -> Tensor:
        """Return (B, T, C), the next symbol at each step: one-hot, or a random code."""
        symbols = self.metadata["symbols"]
        if symbols <= ONE_HOT:
            return F.one_hot(y, symbols).float()
        if self._codes is None or self._codes.device != y.device:
            stream = torch.Generator().manual_seed(0)  # the same in every process
            self._codes = torch.randn(symbols, CODE, generator=stream).to(y.device)
        return F.embedding(y, self._codes)


def _in_one_row(text: Tensor) -> ContiguousBatches:
    return text_chunks(text, max(1, min(EVALUATION_STEPS, len(text) - 1)), rows=1)


class CharLMStack(LanguageStack):
    """`char-lm` in layers."""

    name = "char-lm-stack"
    keywords_of = Characters


class WordLMStack(LanguageStack):
    """`word-lm` in layers; the head has weights of its own."""

    name = "word-lm-stack"
    keywords_of = Words
