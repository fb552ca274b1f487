"""What a stage notes, and what the next process of it finds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workers.recovery.atomic_buffer import AtomicBuffer
from workers.recovery.journal import Journal, last_entry


@pytest.fixture
def cell() -> Iterator[AtomicBuffer]:
    made = AtomicBuffer()
    yield made
    made.close()


def test_the_first_process_finds_nothing(cell: AtomicBuffer) -> None:
    journal = Journal(cell, 1.0)
    assert journal.before is None
    assert journal.delivered("from 1") == [0, 0, 0, 0]
    assert last_entry(cell) is None


def test_only_what_was_committed_is_found(cell: AtomicBuffer) -> None:
    journal = Journal(cell, 1.0)
    journal.state_dict = lambda: {"steps": journal.stamp}
    taken = journal.delivered("from 1")
    for stamp in (1, 2):
        journal.stamp = taken[1] = stamp
        journal.commit()
    journal.stamp = taken[1] = 3
    again = Journal(cell, 1.0)
    assert again.before == last_entry(cell) == {"steps": 2, "delivered": {"from 1": [0, 2, 0, 0]}}
    assert again.delivered("from 1") == [0, 2, 0, 0]


def test_the_next_process_continues_the_journal(cell: AtomicBuffer) -> None:
    for life in range(5):
        journal = Journal(cell, 1.0)
        assert journal.delivered("source")[0] == life
        journal.delivered("source")[0] += 1
        journal.commit()


def test_senders_are_flushed_first(cell: AtomicBuffer) -> None:
    journal, entries = Journal(cell, 1.0), []

    class AlreadyReported:
        def flush(self, timeout: float) -> None:
            assert timeout > 0
            entries.append(last_entry(cell))

    journal.senders.append(AlreadyReported())  # type: ignore[arg-type]
    journal.commit()
    journal.commit()
    assert entries == [None, {"delivered": {}}]
