from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_async.ledger import Ledger, Pending
from dni_async.state import copied


def pending(version: int = 0, rows: int = 2, labels: bool = True) -> Pending:
    return Pending(torch.zeros(rows, 4), torch.zeros(rows, 3) if labels else None, version)


def steps_in(ledger: Ledger) -> set[int]:
    return set(ledger._pending)


def test_the_diagram() -> None:
    """put 7, put 8, put 9 (capacity 2), pop 8, pop 7."""
    ledger = Ledger(capacity=2)
    ledger.put(7, pending())
    assert steps_in(ledger) == {7}
    ledger.put(8, pending())
    assert steps_in(ledger) == {7, 8}
    assert ledger.dropped == 0
    ledger.put(9, pending())
    assert steps_in(ledger) == {8, 9}
    assert ledger.dropped == 1
    assert ledger.pop(8) is not None
    assert steps_in(ledger) == {9}
    assert ledger.unmatched == 0
    assert ledger.pop(7) is None
    assert ledger.unmatched == 1


def test_it_gives_back_what_was_put() -> None:
    ledger, entry = Ledger(4), pending(version=11)
    ledger.put(3, entry)
    assert ledger.pop(3) is entry


def test_a_target_matches_once() -> None:
    ledger = Ledger(4)
    ledger.put(3, pending())
    assert ledger.pop(3) is not None
    assert ledger.pop(3) is None
    assert ledger.unmatched == 1


def test_targets_may_come_in_any_order() -> None:
    ledger = Ledger(4)
    for step in range(4):
        ledger.put(step, pending(version=step))
    popped = [ledger.pop(step) for step in (2, 0, 3, 1)]
    assert [entry.version for entry in popped if entry] == [2, 0, 3, 1]
    assert (len(ledger), ledger.dropped, ledger.unmatched) == (0, 0, 0)


def test_held_bytes_counts_activations_and_labels() -> None:
    ledger = Ledger(4)
    assert ledger.held_bytes() == 0
    ledger.put(0, pending(rows=2))
    assert ledger.held_bytes() == 2 * (4 + 3) * 4
    ledger.put(1, pending(rows=5, labels=False))
    assert ledger.held_bytes() == 2 * (4 + 3) * 4 + 5 * 4 * 4
    ledger.pop(0)
    assert ledger.held_bytes() == 5 * 4 * 4


def test_a_ledger_without_room_is_refused() -> None:
    with pytest.raises(AssertionError, match="capacity 0"):
        Ledger(0)


@settings(max_examples=50, deadline=None, database=None)
@given(
    st.integers(1, 5),
    st.lists(st.booleans(), max_size=60),
    st.randoms(use_true_random=False),
)
def test_it_is_bounded_and_counts_every_loss(capacity: int, puts: list[bool], random) -> None:
    """Whatever is put and popped: room is never exceeded, and nothing disappears uncounted."""
    ledger, step, matched, asked = Ledger(capacity), 0, 0, 0
    for put in puts:
        if put:
            ledger.put(step, pending())
            step += 1
        else:
            asked += 1
            matched += ledger.pop(random.randint(0, step)) is not None
        assert len(ledger) <= capacity
        assert step == len(ledger) + matched + ledger.dropped
        assert asked == matched + ledger.unmatched


def test_what_was_remembered_comes_back_with_the_counts() -> None:
    ledger = Ledger(3)
    for step in range(4):
        ledger.put(step, Pending(torch.full((2, 4), float(step)), None, version=step))
    ledger.pop(9)
    other = Ledger(3)
    other.load_state_dict(copied(ledger.state_dict()), torch.device("cpu"))
    assert steps_in(other) == {1, 2, 3}
    assert (other.dropped, other.unmatched) == (1, 1)
    entry = other.pop(2)
    assert entry is not None and entry.labels is None and entry.version == 2
    assert torch.equal(entry.h, torch.full((2, 4), 2.0))


def test_with_less_room_than_there_was_the_oldest_make_way() -> None:
    ledger = Ledger(4)
    for step in range(4):
        ledger.put(step, pending())
    smaller = Ledger(2)
    smaller.load_state_dict(ledger.state_dict(), torch.device("cpu"))
    assert steps_in(smaller) == {2, 3} and smaller.dropped == 2
