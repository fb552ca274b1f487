"""Copy and repeat copy: what the sequences look like, and how they grow."""

from __future__ import annotations

import pytest
import torch

from dni_async.errors import UserError
from tasks.sequence.base import Window
from tasks.sequence.copying import Copy, RepeatCopy, RepeatCopySequences, sequence
from tasks.sequence.curriculum import GrowingSequences


def test_a_sequence_is_start_bits_end_and_then_the_bits_are_wanted() -> None:
    window = sequence(torch.tensor([[1, 0]]), 1, torch.zeros(1, 0))
    assert window.x[0].tolist() == [
        [0, 0, 1, 0],
        [0, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert window.y.tolist() == [[0, 0, 0, 0, 1, 0]]
    assert window.mask is not None and window.mask.tolist() == [[0, 0, 0, 0, 1, 1]]
    assert window.is_last


def test_a_repeated_sequence_tells_how_often_and_wants_it_that_often() -> None:
    window = sequence(torch.tensor([[1, 0]]), 3, torch.tensor([[0.3]]))
    assert window.x.shape == (1, 10, 5) and window.x[0, :, 4].tolist() == pytest.approx(
        [0, 0, 0, 0.3] + [0] * 6
    )
    assert window.y.tolist() == [[0, 0, 0, 0, 1, 0, 1, 0, 1, 0]]


def answer(sequences: GrowingSequences, right: bool, batches: int) -> None:
    """Let a model that is always right or always wrong train on some sequences."""
    sequences._updates = batches
    for window in sequences.training(100):
        logits = torch.where(window.y > 0.5, 1.0, -1.0).unsqueeze(2)
        sequences.trained(window, logits if right else -logits)


def test_the_length_grows_when_512_sequences_had_few_wrong_bits() -> None:
    sequences = Copy().sequences(None, 32, 0)
    answer(sequences, True, 15)
    assert sequences.progress() == {"longest_solved_length": 0, "solved_at_update": {}}
    answer(sequences, True, 1)
    assert sequences.progress() == {"longest_solved_length": 1, "solved_at_update": {"1": 16}}
    answer(sequences, True, 16)
    assert sequences.progress() == {"longest_solved_length": 2, "solved_at_update": {"1": 16, "2": 32}}
    assert sequences.draw().x.shape == (32, 8, 4)


def test_wrong_answers_keep_the_length_until_they_are_long_ago() -> None:
    sequences = Copy().sequences(None, 32, 0)
    answer(sequences, False, 20)
    assert sequences.solved == 0
    answer(sequences, True, 13)  # 3 of the last 16 batches wrong: 0.19 bits per sequence
    assert sequences.solved == 0
    answer(sequences, True, 1)  # 2 of 16
    assert sequences.solved == 1


def test_wrong_bits_are_summed_over_the_windows_of_a_sequence() -> None:
    sequences = Copy().sequences(None, 2, 0)
    sequences.length = 4
    for number, window in zip(range(5), sequences.training(2), strict=False):
        right = torch.where(window.y > 0.5, 1.0, -1.0).unsqueeze(2)
        sequences.trained(window, right if number < 4 else -right)
    assert [wrong.tolist() for wrong in sequences._recent] == [[2.0, 2.0]]


def test_length_and_repeats_grow_in_turn() -> None:
    sequences = RepeatCopy().sequences(None, 512, 0)
    assert isinstance(sequences, RepeatCopySequences)
    seen = []
    for _ in range(5):
        seen.append((sequences.bits_once, sequences.repeats))
        answer(sequences, True, 1)
    assert seen == [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3)]
    assert sequences.progress()["longest_solved_length"] == 9
    assert sequences.draw().x.shape == (512, 2 + 4 + 4 * 3, 5)


def test_an_epoch_has_its_updates_and_finishes_its_last_sequence() -> None:
    task = Copy(updates=5)
    sequences = task.sequences(None, 4, 0)
    windows = []
    for window in sequences.training(2):  # 2 windows a sequence at length 1
        sequences.trained(window, torch.zeros(4, window.x.shape[1], 1))
        windows.append(window.is_last)
    assert windows == [False, True] * 3


def test_the_same_seed_draws_the_same_sequences() -> None:
    one, same, other = (Copy().sequences(None, 64, seed) for seed in (0, 0, 1))
    drawn = one.draw().x
    assert torch.equal(drawn, same.draw().x) and not torch.equal(drawn, other.draw().x)


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="width is 0; it must be at least 1"):
        Copy(width=0)


def test_only_the_steps_that_count_are_in_the_loss_of_bits() -> None:
    out = torch.tensor([[[9.0], [0.0], [0.0]], [[-9.0], [0.0], [0.0]]])
    mask = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    loss = Copy().loss(out, Window(out, torch.zeros(2, 3), mask))
    assert loss.item() == pytest.approx(2 * 0.693147, abs=1e-5)
