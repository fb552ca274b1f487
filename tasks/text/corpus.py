"""Text as numbers: reading files, vocabularies, and one long text in parallel rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dni_async.errors import UserError
from tasks.sequence.base import Sequences, Window, cut

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
EVALUATION_STEPS = 256


class Texts(NamedTuple):
    """A vocabulary, and three texts (N,) in numbers of its symbols."""

    symbols: tuple[str, ...]
    train: Tensor
    validation: Tensor
    test: Tensor


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises `UserError` when it cannot be read or has nothing in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the text ({path}: {error.strerror}); give an existing file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the text is not UTF-8 ({path}); give a plain text file") from error
    if not text.strip():
        raise UserError(f"the text is empty ({path}); give a file with text in it")
    return text


def words_of(text: str) -> list[str]:
    """Words by white space, and a sign at the end of each line that has any."""
    return [word for line in text.splitlines() if line.strip() for word in (*line.split(), END_OF_LINE)]


def vocabulary(tokens: Sequence[str], limit: int = 0) -> tuple[str, ...]:
    """The distinct tokens, most frequent first (then in order of the alphabet), at most `limit` of them."""
    counts = sorted(Counter(tokens).items(), key=lambda item: (-item[1], item[0]))
    return tuple(token for token, _ in counts[: limit or None])


def encode(tokens: Sequence[str], symbols: Sequence[str]) -> Tensor:
    """(N,) numbers of the tokens; one that is not in `symbols` counts as unknown.

    Raises `UserError` for a token that is not in `symbols` where these have no `<unk>`.
    """
    number = {symbol: i for i, symbol in enumerate(symbols)}
    unknown = number.get(UNKNOWN)
    found = [number.get(token, unknown) for token in tokens]
    if None in found:
        token = tokens[found.index(None)]
        raise UserError(
            f"{token!r} is not in the vocabulary of {len(symbols)}; use the text it was made from"
        )
    return torch.tensor(found, dtype=torch.long)


class TextSequences(Sequences):
    """A text to train on, in B rows side by side, and two more to evaluate on, each in one piece.

    ```
    text    the cat sat on the mat        B = 2:   row 0   the cat sat on
    x       the cat sat on the                     row 1   the mat ...
    y       cat sat on the mat            state goes on from window to window until the epoch's end
    ```
    """

    def __init__(
        self, symbols: tuple[str, ...], train: Tensor, validation: Tensor, test: Tensor, batch_size: int
    ) -> None:
        self.symbols = symbols
        self.batch_size = batch_size
        self._texts = {"train": train, "validation": validation, "test": test}
        for split, rows in (("train", batch_size), ("validation", 1), ("test", 1)):
            if len(self._texts[split]) < rows + 1:
                raise UserError(
                    f"the {split} text of {len(self._texts[split])} symbols is too short for "
                    f"{rows} rows; give a longer one, or a smaller --batch-size"
                )

    def training(self, bptt: int) -> Iterator[Window]:
        """Once through the text; what does not fill the rows is left out."""
        return _in_rows(self._texts["train"], self.batch_size, bptt)

    def windows(self, bptt: int) -> int:
        """Of a row, which is as many as of all side by side."""
        return math.ceil((len(self._texts["train"]) - 1) // self.batch_size / bptt)

    def evaluation(self, split: str) -> Iterator[Window]:
        """Once through the whole text, state carried from its start to its end."""
        return _in_rows(self._texts[split], 1, EVALUATION_STEPS)


def _in_rows(text: Tensor, rows: int, steps: int) -> Iterator[Window]:
    each = (len(text) - 1) // rows
    x, y = (text[shift : shift + rows * each].view(rows, each) for shift in (0, 1))
    return cut(Window(x, y, ends=True), steps)
