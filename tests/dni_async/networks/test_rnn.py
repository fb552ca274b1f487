from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.networks import RNNDNI
from tests.support.sg_networks import fill, labels_for, synthesizer, train

KINDS = ("lstm", "gru", "rnn")


def filled(kind: str = "gru", **settings: Any) -> RNNDNI:
    torch.manual_seed(0)
    network = RNNDNI(4, 5, 4, kind=kind, **settings).double()
    fill(network)
    return network


def sequence(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_hidden_state_goes_on_from_step_to_step_and_from_part_to_part(kind: str) -> None:
    """A sequence, its two halves and its single steps predict the same."""
    whole, halves, steps = (filled(kind, num_layers=2) for _ in range(3))
    h = sequence(3, 6, 4)
    wanted = whole.synthesize(h, None)
    parts = torch.cat([halves.synthesize(h[:, :2], None), halves.synthesize(h[:, 2:], None)], 1)
    one_by_one = torch.stack([steps.synthesize(h[:, t], None) for t in range(6)], 1)
    torch.testing.assert_close(parts, wanted)
    torch.testing.assert_close(one_by_one, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_time_first_predicts_the_same_transposed(kind: str) -> None:
    h, labels = sequence(3, 6, 4), labels_for(3)
    batch_first = filled(kind, label_size=3)
    time_first = filled(kind, label_size=3, batch_first=False)
    for part in (h[:, :4], h[:, 4:]):
        wanted = batch_first.synthesize(part, labels)
        torch.testing.assert_close(
            time_first.synthesize(part.transpose(0, 1), labels), wanted.transpose(0, 1)
        )


@pytest.mark.parametrize("batch_first", [True, False])
def test_labels_may_have_a_time_of_their_own(batch_first: bool) -> None:
    network = filled(label_size=3, batch_first=batch_first)
    h, labels = sequence(3, 6, 4), labels_for(3)
    over_time = labels.unsqueeze(1).expand(3, 6, 3)
    if not batch_first:
        h, over_time = h.transpose(0, 1), over_time.transpose(0, 1)
    wanted = network.synthesize(h, labels)
    network.reset()
    assert torch.equal(network.synthesize(h, over_time), wanted)
    network.reset()
    later = over_time.roll(1, 2)
    first = (slice(None), 0) if batch_first else (0,)
    later[first] = over_time[first]
    gradient = network.synthesize(h, later)
    assert torch.equal(gradient[first], wanted[first])
    assert not torch.equal(gradient, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_another_batch_size_starts_at_zero_and_another_length_goes_on(kind: str) -> None:
    used, fresh = filled(kind), filled(kind)
    used.synthesize(sequence(3, 6, 4), None)
    h = sequence(2, 5, 4, seed=1)
    assert torch.equal(used.synthesize(h, None), fresh.synthesize(h, None))
    longer = sequence(2, 7, 4, seed=2)
    assert torch.equal(used.synthesize(longer, None), fresh.synthesize(longer, None))
    assert not torch.equal(used.synthesize(longer, None), filled(kind).synthesize(longer, None))


def test_with_time_first_the_batch_is_the_second_dimension_and_of_a_step_the_first() -> None:
    network = filled(batch_first=False)
    assert network.samples_in(sequence(6, 3, 4)) == 3
    assert network.samples_in(sequence(3, 4)) == 3
    assert filled().samples_in(sequence(3, 6, 4)) == 3


def test_reset_forgets_the_hidden_state() -> None:
    network, h = filled(), sequence(3, 6, 4)
    first, second = network.synthesize(h, None), network.synthesize(h, None)
    network.reset()
    assert not torch.equal(first, second)
    assert torch.equal(network.synthesize(h, None), first)


@pytest.mark.parametrize("kind", KINDS)
def test_the_hidden_state_is_detached_and_no_part_of_the_state_dict(kind: str) -> None:
    network = filled(kind)
    names = list(network.state_dict())
    network.synthesize(sequence(3, 6, 4).requires_grad_(), None)
    states = network._hidden_state if kind == "lstm" else (network._hidden_state,)
    assert [s.requires_grad for s in states] == [False] * len(states)
    assert list(network.state_dict()) == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_late_target_trains_from_the_state_that_its_batch_was_predicted_from(kind: str) -> None:
    """Its fresh prediction equals the one made when it passed, as long as the weights have not moved."""
    network = filled(kind)
    sg = synthesizer(network.float(), lr=0.0)
    regressed = []
    network.regress = lambda h, labels, target: (  # type: ignore[method-assign]
        regressed.append(RNNDNI.regress(network, h, labels, target)) or regressed[-1]
    )
    passed = [sequence(3, 6, 4, seed=k).float() for k in range(4)]
    y = torch.zeros(3, dtype=torch.long)
    predictions = [sg.predict(k, 0, h, y) * 3 for k, h in enumerate(passed)]
    after = network._hidden_state
    for k in (0, 2, 1, 3):
        sg.take(TargetGradient(k, 0, torch.zeros_like(passed[k])))
        torch.testing.assert_close(regressed[-1], predictions[k])
    assert network._hidden_state is after


@pytest.mark.parametrize("kind", KINDS)
def test_a_recurrent_network_learns_a_gradient_that_depends_on_the_past(kind: str) -> None:
    """Half of what came one step before: no network without a memory gets below 1."""
    torch.manual_seed(0)
    sg = synthesizer(RNNDNI(2, 12, 2, kind=kind), lr=2e-2)
    before = [torch.zeros(16, 1, 2)]

    def wanted(h: Tensor, y: Tensor) -> Tensor:
        last, before[0] = before[0], h[:, -1:]
        return torch.cat([last, h[:, :-1]], 1) / 2

    errors = train(sg, 150, lambda: torch.randn(16, 5, 2).clamp(-1, 1), wanted)
    assert errors[0] == pytest.approx(1.0)
    assert max(errors[-10:]) < 0.4


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "elman"}, "unknown kind of recurrent SG network (elman); use one of lstm, gru, rnn"),
        ({"num_layers": 0}, "num_layers is 0; it must be at least 1"),
        ({"hidden_size": 0}, "hidden_size is 0; it must be at least 1"),
        ({"dropout": 1}, "dropout is 1; it must be at least 0 and below 1"),
        ({"dropout": -0.5}, "dropout is -0.5; it must be at least 0 and below 1"),
    ],
)
def test_impossible_settings_are_the_users_to_mend(asked: dict[str, Any], message: str) -> None:
    sizes = {"input_size": 4, "hidden_size": 5, "output_size": 4}
    with pytest.raises(UserError) as error:
        RNNDNI(**(sizes | asked))
    assert str(error.value) == message


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4, 4)])
def test_an_input_that_is_no_sequence_is_the_users_to_mend(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"RNNDNI predicts for \(B, D\) or \(B, T, D\), not for"):
        RNNDNI(4, 5, 4).synthesize(torch.zeros(shape), None)
