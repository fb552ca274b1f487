"""Which slots are used, and when they are free again."""

from __future__ import annotations

from workers.runtime.accelerator import DONE
from workers.transport.pool import InFlight, SlotPool
from workers.transport.slots import PAGE


def send(pool: SlotPool, need: int = 1) -> int:
    """Put a message in flight; return the index of its slot."""
    index, _, _ = pool.reserve(need)
    pool.commit(InFlight(index, b"", DONE))
    return index


def test_the_slot_that_was_freed_last_is_used_next() -> None:
    pool = SlotPool(3)
    assert [send(pool), send(pool), send(pool), pool.has_room()] == [0, 1, 2, False]
    pool.release(2)
    assert [send(pool), send(pool), pool.has_room()] == [1, 0, False]
    assert [in_flight.index for in_flight in pool.in_flight] == [2, 1, 0]


def test_few_messages_in_flight_need_few_slots() -> None:
    pool = SlotPool(3)
    for _ in range(10):
        send(pool)
        pool.release(1)
    assert pool.held_bytes() == PAGE


def test_a_larger_message_replaces_the_slot_and_its_generation() -> None:
    pool = SlotPool(1)
    seen = []
    for need in (1, PAGE, PAGE + 1, 2 * PAGE, 5 * PAGE, 1):
        index, generation, slot = pool.reserve(need)
        seen.append((index, generation, slot.size // PAGE))
    assert seen == [(0, 1, 1), (0, 1, 1), (0, 2, 2), (0, 2, 2), (0, 3, 5), (0, 3, 5)]


def test_a_reserved_slot_is_not_in_use_before_it_is_committed() -> None:
    pool = SlotPool(1)
    assert pool.reserve(1)[2] is pool.reserve(1)[2]
    assert pool.has_room()


def test_dropped_slots_hold_nothing() -> None:
    pool = SlotPool(2)
    send(pool)
    for _ in range(2):
        pool.close()
        assert pool.held_bytes() == 0
