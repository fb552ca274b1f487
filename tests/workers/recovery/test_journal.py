"""What a stage notes, and what the next process of it finds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dni_async.messages import Marker, MarkerKind
from workers.recovery.atomic_buffer import AtomicBuffer
from workers.recovery.journal import Journal, JournaledSource, last_entry


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


def test_message_numbers_continue_after_the_handled_messages() -> None:
    cell, stamps = AtomicBuffer(), []
    for messages in (3, 2):
        journal = Journal(cell, 1.0)
        source = JournaledSource((Marker(MarkerKind.REPORT, n, 1) for n in range(messages)), journal)
        for number in range(messages):
            assert source.poll()
            assert source.recv(0.0).step == number
            stamps.append(journal.stamp)
            if number + 1 < messages:
                source.release()  # the last one is not handled
    assert stamps == [1, 2, 3, 3, 4]
    cell.close()
