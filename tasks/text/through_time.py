"""Language models that are trained over time, in windows of one process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dni_async.errors import UserError
from tasks.sequence.base import SequenceModel, Sequences, SequenceTask, Window, cut, recurrent
from tasks.text.corpus import Texts
from tasks.text.language import Characters, LanguageModel, Words

EVALUATION_STEPS = 256


class LanguageTask(SequenceTask):
    """Embedding, recurrent core, linear head; `tied`: embedding and head share one matrix."""

    keywords_of: type[LanguageModel]
    """The settings that the constructor takes beside its own."""

    def __init__(self, *, tied: bool, **settings: Any) -> None:
        self.language, self.tied = self.keywords_of(**settings), tied
        self.score_name = self.language.score_name
        if tied and self.language.embedding != self.language.width:
            raise UserError(
                f"tied weights need an embedding as wide as the core ({self.language.embedding} and "
                f"{self.language.width}); set embedding=0 or tied=no"
            )

    @override
    def model(self, symbols: int) -> SequenceModel:
        language = self.language
        embedding, head = language.embedding_and_head(symbols)
        if self.tied:
            head.weight = embedding.weight
        core = recurrent(language.core, language.embedding, language.width, language.layers, language.dropout)
        drop = nn.Dropout(language.dropout)
        return SequenceModel(nn.Sequential(embedding, drop), core, nn.Sequential(drop, head))

    @override
    def sequences(self, root: Path | None, batch_size: int, seed: int) -> TextSequences:
        return TextSequences(self.language.texts(root), batch_size)

    @override
    def loss(self, out: Tensor, window: Window) -> Tensor:
        """Return the mean cross-entropy of a step (nats)."""
        return F.cross_entropy(out.flatten(0, 1), window.y.flatten())

    @override
    def cost(self, out: Tensor, window: Window) -> tuple[float, int]:
        total = F.cross_entropy(out.flatten(0, 1), window.y.flatten(), reduction="sum")
        return float(total), window.y.numel()

    @override
    def scores(self, cost: float) -> dict[str, float]:
        return {self.score_name: self.language.score(cost)}


class CharLM(LanguageTask):
    """The next character; see `Characters`."""

    name = "char-lm"
    keywords_of = Characters

    def __init__(self, *, tied: bool = False, **settings: Any) -> None:
        super().__init__(tied=tied, **settings)


class WordLM(LanguageTask):
    """The next word; see `Words`."""

    name = "word-lm"
    keywords_of = Words

    def __init__(self, *, tied: bool = True, **settings: Any) -> None:
        super().__init__(tied=tied, **settings)


class TextSequences(Sequences):
    """A training text in B rows side by side, and two texts to evaluate on, each in one row.

    ```
    text    the cat sat on the mat        B = 2:   row 0   the cat sat on
    x       the cat sat on the                     row 1   the mat ...
    y       cat sat on the mat            state goes on from window to window until the epoch's end
    ```
    """

    def __init__(self, texts: Texts, batch_size: int) -> None:
        self.symbols = texts.symbols
        self.batch_size = batch_size
        self._texts = texts._asdict()
        for split, rows in (("train", batch_size), ("validation", 1), ("test", 1)):
            if len(self._texts[split]) < rows + 1:
                raise UserError(
                    f"the {split} text of {len(self._texts[split])} symbols is too short for "
                    f"{rows} rows; give a longer one, or a smaller --batch-size"
                )

    @override
    def training(self, bptt: int) -> Iterator[Window]:
        """Yield the text once; what does not fill the rows is left out."""
        return _in_rows(self._texts["train"], self.batch_size, bptt)

    @override
    def windows(self, bptt: int) -> int:
        return math.ceil((len(self._texts["train"]) - 1) // self.batch_size / bptt)

    @override
    def evaluation(self, split: str) -> Iterator[Window]:
        """Yield the whole text in one row, state carried from its start to its end."""
        return _in_rows(self._texts[split], 1, EVALUATION_STEPS)


def _in_rows(text: Tensor, rows: int, steps: int) -> Iterator[Window]:
    each = (len(text) - 1) // rows
    x, y = (text[shift : shift + rows * each].view(rows, each) for shift in (0, 1))
    return cut(Window(x, y, is_last=True), steps)
