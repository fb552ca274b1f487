"""Chunks of a long sequence lie side by side."""

from __future__ import annotations

import pytest
import torch

from dni_async.errors import UserError
from tasks.contiguous import ContiguousBatches, text_chunks


def test_rows_go_on_where_they_ended() -> None:
    chunks = ContiguousBatches(torch.arange(9))
    assert chunks.order(2).tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert chunks.order(9).tolist() == [list(range(9))]
    assert [chunks.steps(rows) for rows in (1, 2, 4, 5, 9)] == [9, 4, 2, 1, 1]


def test_rows_may_be_given_whatever_the_batch_size() -> None:
    chunks = ContiguousBatches(torch.arange(3), rows=1)
    assert chunks.order(100).tolist() == [[0], [1], [2]]
    assert chunks.steps(100) == 3


def test_no_row_begins_within_chunks_that_belong_together() -> None:
    chunks = ContiguousBatches(torch.arange(11), unit=2)
    assert chunks.order(2).tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert chunks.order(3).tolist() == [[0, 2, 4], [1, 3, 5]]
    assert [chunks.steps(rows) for rows in (1, 2, 3, 5)] == [10, 4, 2, 2]
    with pytest.raises(UserError, match="a sequence of 5 chunks cannot fill 6 rows"):
        chunks.order(6)


def test_fewer_chunks_than_rows_are_refused() -> None:
    with pytest.raises(UserError, match="a sequence of 3 chunks cannot fill 4 rows; lower --batch-size"):
        ContiguousBatches(torch.arange(3)).order(4)


def test_with_each_chunk_of_a_text_comes_what_follows_its_symbols() -> None:
    x, y = text_chunks(torch.arange(10), 4).tensors
    assert x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert torch.equal(y, x + 1)
    assert [len(text_chunks(torch.arange(n), 4)) for n in (0, 1, 4, 5, 8, 9)] == [0, 0, 0, 1, 1, 2]


def test_side_by_side_the_rows_are_the_text() -> None:
    chunks = text_chunks(torch.arange(25), 3)
    x = torch.cat([chunks.tensors[0][index] for index in chunks.order(2)], 1)
    assert x.tolist() == [list(range(12)), list(range(12, 24))]
