from __future__ import annotations

import copy

import torch
from torch import nn

from dni_async.messages import Activation, TargetGradient
from dni_async.rules import DelayedRule
from dni_async.rules.weight_prediction import WeightPrediction
from dni_async.stage.simulation import Simulation
from dni_async.stage.stage import Stage
from dni_async.state.state_dict import copied
from tests.support.stages import WIDTH, batches, pipeline, same_bits, state_of, with_stop


def test_weights_are_extrapolated_inside_the_block_and_as_before_behind_it() -> None:
    layer, prediction = nn.Linear(1, 1, bias=False), WeightPrediction(3)
    with torch.no_grad(), prediction.applied(layer):
        layer.weight.fill_(1.0)  # before the first update nothing is extrapolated
    prediction.before_update()
    with torch.no_grad():
        layer.weight.fill_(3.0)
    with prediction.applied(layer):
        assert layer.weight.item() == 3.0 + 3 * (3.0 - 1.0)
    assert layer.weight.item() == 3.0


def linear_stage(predicted: int) -> Stage:
    """A stage that keeps two graphs."""
    return pipeline(cut=(1,), rule=lambda: DelayedRule(2, predicted))[0]


def test_the_backward_sees_the_weights_of_the_forward() -> None:
    """The gradient of a batch equals that of a network which has the predicted weights for good."""
    stage = linear_stage(2)
    first, second = batches([4, 4])
    assert isinstance(first, Activation) and isinstance(second, Activation)
    for message in (first, TargetGradient(0, 0, torch.ones(4, WIDTH))):
        list(stage.on(message))
    assert isinstance(stage.rule, DelayedRule) and stage.rule.prediction is not None
    replica = copy.deepcopy(stage.layers)
    with stage.rule.prediction.applied(replica):
        predicted = copy.deepcopy(replica)
    predicted(second.h).backward(torch.ones(4, WIDTH))
    [sent] = stage.on(second)
    assert isinstance(sent, Activation)
    torch.testing.assert_close(sent.h, predicted(second.h).detach())
    before = [p.detach().clone() for p in stage.layers.parameters()]
    stage.updater.optimizer = torch.optim.SGD(stage.layers.parameters(), lr=1.0)  # type: ignore[union-attr]
    list(stage.on(TargetGradient(1, 0, torch.ones(4, WIDTH))))
    for old, new, wanted in zip(before, stage.layers.parameters(), predicted.parameters(), strict=True):
        torch.testing.assert_close(old - new, wanted.grad)


def test_a_restored_rule_goes_on_to_the_bit() -> None:
    messages = batches([8] * 6)
    stages = pipeline((1, 2), lambda: DelayedRule(2, 1))
    Simulation(stages).run(messages[:3])
    states = [copied(stage.state_dict()) for stage in stages]
    others = pipeline((1, 2), lambda: DelayedRule(2, 1))
    for stage, state in zip(others, states, strict=True):
        stage.load_state_dict(state)
    for each in (stages, others):
        Simulation(each).run(with_stop(messages[3:]))
    assert same_bits(state_of(stages), state_of(others))


def test_prediction_changes_what_is_learned() -> None:
    trained = []
    for predicted in (0, 2):
        stages = pipeline((1, 2), lambda predicted=predicted: DelayedRule(3, predicted))
        Simulation(stages).run(with_stop(batches([8] * 6)))
        trained.append(state_of(stages))
    assert not same_bits(*trained)
