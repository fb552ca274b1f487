"""Ranks with another secret than the others."""

from __future__ import annotations

import threading

import pytest
import torch.distributed as dist

from dni_async.errors import StageError, UserError
from tests.support.channels import TEST_TIMEOUT_S
from workers.coordination.secret_check import check_secrets


def checked(*secrets: bytes) -> list[str]:
    """What the ranks with these secrets report."""
    store, lines = dist.HashStore(), [""] * len(secrets)

    def check(rank: int) -> None:
        try:
            check_secrets(store, rank, len(secrets), secrets[rank], TEST_TIMEOUT_S)
        except UserError as error:
            lines[rank] = str(error)

    threads = [threading.Thread(target=check, args=(rank,)) for rank in range(len(secrets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT_S)
    return lines


def test_equal_secrets_and_none_are_accepted() -> None:
    assert checked(b"one", b"one", b"one") == ["", "", ""]
    assert checked(b"", b"") == ["", ""]


def test_another_secret_is_named_by_both_ranks() -> None:
    remedy = "set DNI_ASYNC_JOB_SECRET to the same text on all hosts"
    assert checked(b"one", b"two") == [
        f"rank 0 has another secret than rank 1; {remedy}",
        f"rank 1 has another secret than rank 0; {remedy}",
    ]


def test_a_missing_secret_is_named_by_a_rank_that_has_one() -> None:
    first, second = checked(b"one", b"")
    assert first.startswith("rank 0 has another secret than rank 1; set") and second == ""


def test_a_rank_that_does_not_come_ends_the_wait() -> None:
    with pytest.raises(StageError, match=r"^rank 0 waited 0\.1 s for rank 1$"):
        check_secrets(dist.HashStore(), 0, 2, b"one", 0.1)


def test_the_secret_is_not_published() -> None:
    store = dist.HashStore()
    check_secrets(store, 0, 1, b"one", 1.0)
    assert b"one" not in store.get("secret/0")
