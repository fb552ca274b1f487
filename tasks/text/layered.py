"""Language models in layers, so that their stack can be cut into stages between the recurrent layers.

embedding │ core │ ... │ core │ head          every core carries its state from window to window, and has
                                              a synthetic gradient through time at each window's end
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.recurrent.stateful_rnn import StatefulRNN
from tasks.base import Task
from tasks.contiguous import ContiguousBatches, pieces_of
from tasks.sequence.base import carried, known_end, recurrent
from tasks.text.corpus import EVALUATION_STEPS
from tasks.text.language import CharLM, LanguageTask, WordLM
from tasks.vision.digits import at_least

ONE_HOT, CODE = 128, 64
"""At most ONE_HOT symbols condition SG networks one-hot, more of them by random codes of width CODE."""


class LanguageStack(Task):
    """A language model in layers. A sample is `bptt` symbols in a row; batches take the text side by side.

    Evaluation goes through a whole text in one row, state carried from its start to its end. What it measures
    is nats per symbol, reported as bits per character or perplexity.
    """

    carries_state = True

    def __init__(self, language: LanguageTask, bptt: int, end: str) -> None:
        self.language, self.bptt, self.end = language, at_least(1, bptt=bptt), known_end(end)
        self.metric_name = language.score_name
        self._codes: Tensor | None = None

    @property
    def name(self) -> str:
        """What reports call this task."""
        return f"{self.language.name}-stack"

    def layers(self) -> list[nn.Module]:
        """Embedding, recurrent layers, head; dropout between them."""
        language = self.language
        embedding, head = language.ends(self.metadata["symbols"])
        drop = [nn.Dropout(language.dropout) for _ in range(language.layers + 1)]
        widths = [language.embedding] + [language.width] * (language.layers - 1)
        cores = [self._core(width) for width in widths]
        between = zip(cores, drop[1:], strict=True)
        return [nn.Sequential(embedding, drop[0]), *(nn.Sequential(*pair) for pair in between), head]

    def _core(self, inputs: int) -> StatefulRNN:
        core = recurrent(self.language.core, inputs, self.language.width)
        return carried(core, self.end)

    def data(self, root: Path | None) -> tuple[ContiguousBatches, ContiguousBatches]:
        """Windows of the training text and of the test text."""
        texts = self.language.texts(root)
        self.metadata = {"symbols": len(texts.symbols)}
        return pieces_of(texts.train, self.bptt), _in_one_row(texts.test)

    def validation(self, root: Path | None) -> ContiguousBatches:
        """Windows of the validation text."""
        return _in_one_row(self.language.texts(root).validation)

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of a step (nats)."""
        return F.cross_entropy(output.flatten(0, 1), y.flatten())

    def metric(self, output: Tensor, y: Tensor) -> Tensor:
        """(B,) mean cross-entropy of the steps of each row (nats)."""
        return F.cross_entropy(output.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)

    def reported(self, mean: float) -> float:
        """Nats per symbol as what people know."""
        return self.language.scores(mean)[self.metric_name]

    def condition(self, y: Tensor) -> Tensor:
        """(B, T, C) the next symbol at each step: one-hot, or a random code."""
        symbols = self.metadata["symbols"]
        if symbols <= ONE_HOT:
            return F.one_hot(y, symbols).float()
        if self._codes is None:
            self._codes = torch.randn(symbols, CODE, generator=torch.Generator().manual_seed(0))
        self._codes = self._codes.to(y.device)
        return F.embedding(y, self._codes)


def _in_one_row(text: Tensor) -> ContiguousBatches:
    return pieces_of(text, max(1, min(EVALUATION_STEPS, len(text) - 1)), rows=1)


class CharLMStack(LanguageStack):
    """`char-lm` in layers."""

    def __init__(
        self,
        text: str = "",
        core: str = "lstm",
        width: int = 256,
        layers: int = 2,
        embedding: int = 64,
        dropout: float = 0.0,
        bptt: int = 16,
        end: str = "dni",
    ) -> None:
        """As char-lm, and: bptt, time steps of a window, which is one update; end: what ends a window of
        truncated BPTT, bptt (nothing), dni (a synthetic gradient) or dni-permuted (a control)."""
        super().__init__(CharLM(text, core, width, layers, embedding, dropout), bptt, end)


class WordLMStack(LanguageStack):
    """`word-lm` in layers; the head has weights of its own."""

    def __init__(
        self,
        folder: str = "",
        core: str = "lstm",
        width: int = 200,
        layers: int = 2,
        embedding: int = 0,
        dropout: float = 0.2,
        words: int = 0,
        bptt: int = 16,
        end: str = "dni",
    ) -> None:
        """As word-lm, and: bptt, time steps of a window, which is one update; end: what ends a window of
        truncated BPTT, bptt (nothing), dni (a synthetic gradient) or dni-permuted (a control)."""
        super().__init__(
            WordLM(folder, core, width, layers, embedding, dropout, tied=False, words=words), bptt, end
        )
