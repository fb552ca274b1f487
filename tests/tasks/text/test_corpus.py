"""Text as numbers, in rows, and what is wrong with a text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dni_async.errors import UserError
from tasks.text.corpus import Texts, encode, read_text, vocabulary, words_of
from tasks.text.through_time import TextSequences

NUMBERS = torch.arange(20)


def test_words_are_told_apart_by_space_and_lines_end_with_a_sign() -> None:
    assert words_of(" a b\n\n c \n") == ["a", "b", "<eos>", "c", "<eos>"]


def test_a_vocabulary_has_the_most_frequent_first_and_may_be_limited() -> None:
    assert vocabulary("banana") == ("a", "n", "b")
    assert vocabulary("banana", 2) == ("a", "n")
    assert vocabulary("ba") == ("a", "b")


def test_unknown_words_have_a_number_if_there_is_one_for_them() -> None:
    assert encode(["b", "z"], ["<unk>", "b"]).tolist() == [1, 0]
    with pytest.raises(UserError, match=r"'z' is not in the vocabulary of 2"):
        encode(["b", "z"], ["a", "b"])


def test_a_text_lies_in_rows_whose_windows_follow_one_another() -> None:
    sequences = TextSequences(Texts((), NUMBERS, NUMBERS, NUMBERS), batch_size=2)
    windows = list(sequences.training(4))
    assert [window.x.tolist() for window in windows] == [
        [[0, 1, 2, 3], [9, 10, 11, 12]],
        [[4, 5, 6, 7], [13, 14, 15, 16]],
        [[8], [17]],
    ]
    assert all(torch.equal(window.y, window.x + 1) for window in windows)
    assert [window.is_last for window in windows] == [False, False, True]
    assert len(windows) == sequences.windows(4)


def test_evaluation_goes_through_the_whole_text_in_one_row() -> None:
    sequences = TextSequences(Texts((), NUMBERS, torch.arange(600), NUMBERS), batch_size=2)
    windows = list(sequences.evaluation("validation"))
    assert torch.cat([window.y for window in windows], 1).tolist() == [list(range(1, 600))]
    assert [window.is_last for window in windows] == [False, False, True]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        (b"", "the text is empty"),
        (b" \n", "the text is empty"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_text_that_is_no_text_is_refused_in_one_line(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        read_text(path)


def test_a_text_too_short_for_its_rows_is_refused() -> None:
    with pytest.raises(UserError, match="the train text of 20 symbols is too short for 32 rows"):
        TextSequences(Texts((), NUMBERS, NUMBERS, NUMBERS), batch_size=32)
