from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_async.state.state_dict import copied
from dni_async.synthesis.pending import PendingPrediction, PendingPredictions, some_samples


def waiting(version: int = 0, rows: int = 2, labels: bool = True) -> PendingPrediction:
    return PendingPrediction(torch.zeros(rows, 4), torch.zeros(rows, 3) if labels else None, version)


def steps_in(pending: PendingPredictions) -> set[int]:
    return set(pending._pending)


def test_the_diagram() -> None:
    """put 7, put 8, put 9 (capacity 2), pop 8, pop 7."""
    pending = PendingPredictions(capacity=2)
    pending.put(7, waiting())
    assert steps_in(pending) == {7}
    pending.put(8, waiting())
    assert steps_in(pending) == {7, 8}
    assert pending.dropped == 0
    pending.put(9, waiting())
    assert steps_in(pending) == {8, 9}
    assert pending.dropped == 1
    assert pending.pop(8) is not None
    assert steps_in(pending) == {9}
    assert pending.unmatched == 0
    assert pending.pop(7) is None
    assert pending.unmatched == 1


def test_taking_a_prediction_returns_what_was_put() -> None:
    pending, entry = PendingPredictions(4), waiting(version=11)
    pending.put(3, entry)
    assert pending.pop(3) is entry


def test_a_target_matches_once() -> None:
    pending = PendingPredictions(4)
    pending.put(3, waiting())
    assert pending.pop(3) is not None
    assert pending.pop(3) is None
    assert pending.unmatched == 1


def test_targets_may_come_in_any_order() -> None:
    pending = PendingPredictions(4)
    for step in range(4):
        pending.put(step, waiting(version=step))
    popped = [pending.pop(step) for step in (2, 0, 3, 1)]
    assert [entry.version for entry in popped if entry] == [2, 0, 3, 1]
    assert (len(pending), pending.dropped, pending.unmatched) == (0, 0, 0)


def test_held_bytes_counts_activations_and_labels() -> None:
    pending = PendingPredictions(4)
    assert pending.held_bytes == 0
    pending.put(0, waiting(rows=2))
    assert pending.held_bytes == 2 * (4 + 3) * 4
    pending.put(1, waiting(rows=5, labels=False))
    assert pending.held_bytes == 2 * (4 + 3) * 4 + 5 * 4 * 4
    pending.pop(0)
    assert pending.held_bytes == 5 * 4 * 4
    pending.put(1, waiting(rows=3, labels=False))
    assert (len(pending), pending.held_bytes) == (1, 3 * 4 * 4)
    pending.discard(1)
    pending.discard(7)
    assert pending.held_bytes == 0


def test_a_book_of_predictions_without_room_is_refused() -> None:
    with pytest.raises(AssertionError, match="capacity 0"):
        PendingPredictions(0)


@settings(max_examples=50, deadline=None, database=None)
@given(
    st.integers(1, 5),
    st.lists(st.booleans(), max_size=60),
    st.randoms(use_true_random=False),
)
def test_pending_predictions_are_bounded_and_every_loss_is_counted(
    capacity: int, puts: list[bool], random
) -> None:
    """Whatever is put and popped: room is never exceeded, and nothing disappears uncounted."""
    pending, step, matched, asked = PendingPredictions(capacity), 0, 0, 0
    for put in puts:
        if put:
            pending.put(step, waiting())
            step += 1
        else:
            asked += 1
            matched += pending.pop(random.randint(0, step)) is not None
        assert len(pending) <= capacity
        assert pending.held_bytes == 2 * (4 + 3) * 4 * len(pending)
        assert step == len(pending) + matched + pending.dropped
        assert asked == matched + pending.unmatched


def test_pending_predictions_come_back_from_a_state_with_the_counts() -> None:
    pending = PendingPredictions(3)
    for step in range(4):
        pending.put(step, PendingPrediction(torch.full((2, 4), float(step)), None, version=step))
    pending.pop(9)
    other = PendingPredictions(3)
    other.load_state_dict(copied(pending.state_dict()), torch.device("cpu"))
    assert steps_in(other) == {1, 2, 3}
    assert other.held_bytes == pending.held_bytes == 3 * 2 * 4 * 4
    assert (other.dropped, other.unmatched) == (1, 1)
    entry = other.pop(2)
    assert entry is not None and entry.labels is None and entry.version == 2
    assert torch.equal(entry.h, torch.full((2, 4), 2.0))


def test_a_smaller_book_of_predictions_drops_the_oldest() -> None:
    pending = PendingPredictions(4)
    for step in range(4):
        pending.put(step, waiting())
    smaller = PendingPredictions(2)
    smaller.load_state_dict(pending.state_dict(), torch.device("cpu"))
    assert steps_in(smaller) == {2, 3} and smaller.dropped == 2


@pytest.mark.parametrize(
    ("samples", "share", "count"), [(8, 0.25, 2), (9, 0.25, 2), (3, 0.25, 1), (1, 0.25, 1), (4, 1.0, 4)]
)
def test_a_share_of_a_batch_is_one_sample_or_more_in_a_row(samples: int, share: float, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [range(samples)[some_samples(samples, share, generator)] for _ in range(200)]
    assert all(len(each) == count for each in drawn)
    assert {each.start for each in drawn} == set(range(samples - count + 1))


@pytest.mark.parametrize("labels", [True, False])
def test_a_part_of_a_prediction_has_the_rows_of_its_samples(labels: bool) -> None:
    h, y = torch.arange(12.0).view(4, 3), torch.arange(8.0).view(4, 2)
    part = PendingPrediction(h, y if labels else None, 7, share=0.5).part(slice(1, 3))
    assert torch.equal(part.h, h[1:3])
    assert (part.labels is None) != labels
    assert part.labels is None or torch.equal(part.labels, y[1:3])
    assert (part.version, part.share, part.hidden) == (7, 0.5, None)
