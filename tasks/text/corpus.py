"""Text as numbers: reading files, vocabularies, and the three texts of a language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dni_async.errors import UserError
from tasks.data_files import read_data

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"


class Texts(NamedTuple):
    """A vocabulary, and three texts (N,) as indices into it."""

    symbols: tuple[str, ...]
    train: Tensor
    validation: Tensor
    test: Tensor


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text. Raises `UserError` when it cannot be read or has nothing in it."""
    content = read_data(path)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the text is not UTF-8 ({path}); give a plain text file") from error
    if not text.strip():
        raise UserError(f"the text is empty ({path}); give a file with text in it")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def words_of(text: str) -> list[str]:
    """Return the words between white space, and `END_OF_LINE` after each line that has any."""
    return [word for line in text.splitlines() if line.strip() for word in (*line.split(), END_OF_LINE)]


def vocabulary(tokens: Sequence[str], limit: int = 0) -> tuple[str, ...]:
    """Return the distinct tokens, most frequent first, then alphabetically; at most `limit` (0: all)."""
    counts = sorted(Counter(tokens).items(), key=lambda item: (-item[1], item[0]))
    return tuple(token for token, _ in counts[: limit or None])


def encode(tokens: Sequence[str], symbols: Sequence[str]) -> Tensor:
    """Return (N,) indices of the tokens; one that is not in `symbols` has that of `UNKNOWN`.

    Raises UserError for such a token if the symbols have no `UNKNOWN`.
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
