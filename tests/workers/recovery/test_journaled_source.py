"""Numbers of the stream's messages, which go on in the next process."""

from __future__ import annotations

from dni_async.messages import Marker, MarkerKind
from workers.recovery.atomic_buffer import AtomicBuffer
from workers.recovery.journal import Journal
from workers.recovery.journaled_source import JournaledSource


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
