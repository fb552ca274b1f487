"""A stage that guesses slows itself down: the trust that travels with targets, and what it does to rates."""

from __future__ import annotations

import math

import pytest
import torch

from dni_async.messages import Message, TargetGradient
from dni_async.rules import DniRule, LossRule
from dni_async.stage.simulation import Simulation
from dni_async.stage.stage import Stage
from dni_async.state.state_dict import copied
from tests.support.stages import batches, pipeline, same_bits, state_of, synthesizer, with_stop


def gated(gate: bool = True) -> list[Stage]:
    return pipeline((1, 2), lambda: DniRule(synthesizer(), gate))


def test_the_trust_of_a_stage_is_its_cosine_times_that_of_the_stages_after_it() -> None:
    stages = gated()
    for stage, cosine in zip(stages, (0.5, 0.8), strict=False):
        stage.rule.predictor.agreement._running_cosine = cosine
    [batch] = batches([4])
    sent: list[list[Message]] = []
    for stage in stages:
        sent.append(list(stage.on(batch)))
        batch = sent[-1][0]
    [of_the_last] = [m for m in sent[2] if isinstance(m, TargetGradient)]
    assert of_the_last.trust == 1.0
    assert isinstance(stages[2].rule, LossRule) and (stages[2].rule.trust, stages[2].rule.rate) == (1.0, 1.0)
    assert stages[0].rule.trust == 0.5  # nothing has come yet
    stages[1].rule._below = 0.9
    stages[0].rule.take_target(TargetGradient(0, 0, torch.ones(4, 14), stages[1].rule.trust), 0)
    cosine = stages[0].rule.predictor.cosine
    assert stages[0].rule.trust == pytest.approx(cosine * 0.8 * 0.9)
    assert stages[0].rule.rate == pytest.approx(math.sqrt(cosine * 0.8 * 0.9))
    stages[0].rule.predictor.agreement._running_cosine = -0.3
    assert (stages[0].rule.trust, stages[0].rule.rate) == (0.0, 0.0)


def test_targets_carry_the_trust_of_who_sends_them() -> None:
    stages = gated()
    stages[1].rule.predictor.agreement._running_cosine = 0.25
    seen: list[float] = []
    simulation = Simulation(stages, keep=lambda target: seen.append(target.trust) or True)
    simulation.run(with_stop(batches([4] * 2)))
    assert sorted(set(seen)) == [pytest.approx(0.25, abs=0.2), 1.0]


def test_without_a_gate_nothing_changes_and_with_one_stages_below_the_last_move_less() -> None:
    before = [p.detach().clone() for p in gated()[0].layers.parameters()]
    moved = {}
    for gate in (True, False):
        stages = gated(gate)
        assert stages[0].rule.rate == (0.0 if gate else 1.0)
        Simulation(stages).run(with_stop(batches([8] * 40)))
        after = stages[0].layers.parameters()
        moved[gate] = sum(float((a - b).detach().abs().sum()) for a, b in zip(after, before, strict=True))
    assert 0 < moved[True] < moved[False]


def test_a_resumed_gate_goes_on_to_the_bit() -> None:
    messages = batches([8] * 10)
    stages = gated()
    Simulation(stages).run(messages[:6])
    others = gated()
    for stage, state in zip(others, [copied(stage.state_dict()) for stage in stages], strict=True):
        stage.load_state_dict(state)
    assert [stage.rule.trust for stage in others] == [stage.rule.trust for stage in stages]
    for each in (stages, others):
        Simulation(each).run(with_stop(messages[6:]))
    assert same_bits(state_of(stages), state_of(others))
