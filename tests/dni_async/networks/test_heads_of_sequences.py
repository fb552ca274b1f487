"""What all heads for sequences do about padding, sequences of several lengths, and labels that do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.networks import TokenAttentionSG, TokenHeadSG
from dni_async.synthesis.synthesizer import Synthesizer
from tests.support.stages import synthesizer

WIDTH, CLASSES, IGNORED = 6, 20, -100

HEADS: dict[str, Callable[[], TokenHeadSG]] = {
    "plain": lambda: TokenHeadSG(WIDTH, CLASSES),
    "hidden layer": lambda: TokenHeadSG(WIDTH, CLASSES, hidden_size=5),
    "low rank": lambda: TokenHeadSG(WIDTH, CLASSES, rank=3),
    "sampled": lambda: TokenHeadSG(WIDTH, CLASSES, negatives=4),
    "attention": lambda: TokenAttentionSG(WIDTH, CLASSES, 8),
    "attention, sampled": lambda: TokenAttentionSG(WIDTH, CLASSES, 8, rank=3, negatives=4),
}
every_head = pytest.mark.parametrize("kind", HEADS)


def valid(y: Tensor) -> Tensor:
    return y != IGNORED


def predictor(kind: str) -> Synthesizer:
    """A synthesizer as a stage has it, whose network is the same for a kind."""
    torch.manual_seed(0)
    network = HEADS[kind]().double()
    return synthesizer(network, condition=lambda y: y.masked_fill(y == IGNORED, -1), valid=valid)


def batch(rows: int, steps: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(rows, steps, WIDTH, generator=generator, dtype=torch.float64)
    return h, torch.randint(CLASSES, (rows, steps), generator=generator)


@every_head
def test_padding_changes_nothing_for_the_positions_before_it_and_gets_no_gradient(kind: str) -> None:
    h, y = batch(3, 4)
    padded = torch.cat([h, 9 + torch.randn(3, 2, WIDTH, dtype=torch.float64)], 1)
    labels = torch.cat([y, torch.full((3, 2), IGNORED)], 1)
    alone, with_padding = predictor(kind), predictor(kind)
    wanted, gradient = alone.predict(0, 0, h, y), with_padding.predict(0, 0, padded, labels)
    torch.testing.assert_close(gradient[:, :4], wanted)
    assert gradient[:, 4:].abs().max() == 0
    for p, q in zip(alone.network.parameters(), with_padding.network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)  # Adam sees smaller gradients, beside its eps


@every_head
def test_a_gradient_is_that_of_the_mean_over_the_labels_that_count(kind: str) -> None:
    """So a row weighs twice as much where the labels of the other one are ignored."""
    h, y = batch(2, 4)
    y[1] = IGNORED
    both, one = predictor(kind), predictor(kind)
    gradient, wanted = both.predict(0, 0, h, y), one.predict(0, 0, h[:1], y[:1])
    torch.testing.assert_close(gradient[:1], wanted)
    assert gradient[1].abs().max() == 0


@every_head
def test_batches_may_have_sequences_of_any_length(kind: str) -> None:
    sg = predictor(kind)
    for step, (rows, steps) in enumerate([(4, 5), (4, 3), (1, 1), (2, 7)]):
        h, y = batch(rows, steps, seed=step)
        assert sg.predict(step, 0, h, y).shape == h.shape
    for step, (rows, steps) in enumerate([(4, 5), (4, 3), (1, 1), (2, 7)]):
        assert sg.take(TargetGradient(step, 0, torch.full((rows, steps, WIDTH), 1e-3).double())) == 0
    assert all(p.isfinite().all() for p in sg.network.parameters())


@every_head
@pytest.mark.parametrize("shape", [(2, 3), (2, 5), (3, 4), (2, 4, 1)])
def test_labels_of_another_length_are_refused(kind: str, shape: tuple[int, ...]) -> None:
    h, _ = batch(2, 4)
    line = re.escape(f"labels {shape} do not fit activations (2, 4, 6) position by position; use rule dni")
    with pytest.raises(UserError, match=line):
        predictor(kind).predict(0, 0, h, torch.zeros(shape, dtype=torch.long))
