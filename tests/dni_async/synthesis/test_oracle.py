from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni_async.errors import StageError
from dni_async.messages import TargetGradient
from dni_async.state.state_dict import random_state
from dni_async.synthesis.oracle import Oracle, SeparateRandomness
from tests.support.stages import CLASSES, WIDTH, adam


def oracle(*first: nn.Module) -> Oracle:
    torch.manual_seed(0)
    downstream = nn.Sequential(*first, nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))
    return Oracle(downstream, F.cross_entropy, adam(downstream))


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(7, WIDTH, generator=generator), torch.arange(7) % CLASSES


def test_the_oracle_predicts_the_exact_gradient() -> None:
    seer, (h, y) = oracle(), batch()
    leaf = h.clone().requires_grad_()
    F.cross_entropy(oracle().downstream(leaf), y).backward()
    assert leaf.grad is not None
    assert torch.equal(seer.predict(0, 0, h, y), leaf.grad)
    assert not h.requires_grad


def test_the_replica_of_an_oracle_learns_with_every_prediction() -> None:
    seer, (h, y) = oracle(), batch()
    first = seer.predict(0, 0, h, y)
    second = seer.predict(1, 1, h, y)
    assert seer.updater.version == 2
    assert not torch.equal(first, second)


def test_a_target_that_equals_the_prediction_gives_its_version() -> None:
    seer = oracle()
    gradients = [seer.predict(step, 10 * step, *batch(step)) for step in range(3)]
    assert [seer.take(TargetGradient(step, 0, gradients[step].clone())) for step in (1, 0, 2)] == [10, 0, 20]


def test_a_target_off_by_one_bit_is_an_error_that_names_the_step() -> None:
    seer = oracle()
    wrong = seer.predict(5, 0, *batch()).clone()
    wrong[3, 2] = torch.nextafter(wrong[3, 2], torch.tensor(1.0))
    with pytest.raises(StageError, match=r"target of step 5 differs from the oracle's by up to \d"):
        seer.take(TargetGradient(5, 0, wrong))


def test_a_replica_may_begin_in_place() -> None:
    h, y = batch()
    before = h.clone()
    in_place = oracle(nn.ReLU(inplace=True)).predict(0, 0, h, y)
    assert torch.equal(h, before)
    assert torch.equal(in_place, oracle(nn.ReLU()).predict(0, 0, h, y))


def test_the_oracle_reports_no_error() -> None:
    seer = oracle()
    seer.new_epoch()
    assert seer.stats() == {"sg_relative_error": 0.0, "sg_cosine": 1.0}


def test_separate_randomness_draws_as_a_process_of_its_own_and_leaves_the_others_alone() -> None:
    dropout, x = nn.Dropout(0.5), torch.ones(40)
    torch.manual_seed(7)
    wanted = [dropout(x), dropout(x)]
    torch.manual_seed(7)
    separate = SeparateRandomness(dropout, random_state())
    torch.manual_seed(3)
    first = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(separate(x), wanted[0])
    assert torch.equal(torch.rand(1), first)
    assert torch.equal(separate(x), wanted[1])
