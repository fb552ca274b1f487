"""What a class of the user returned is named, with the value, before it does harm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni_async.contract import check_like, check_report, describe_value
from dni_async.errors import UserError
from dni_async.networks.flattened import Flattened
from dni_async.optim import Updater
from dni_async.rules import Rule
from dni_async.stage.stage import Stage
from tests.support import wrong_plugins
from tests.support.stages import WIDTH, batches

RULES = {
    "GradientNone": "None",
    "GradientNumber": "a value of type float",
    "GradientTuple": "a tuple of 2",
    "GradientOfAnotherShape": rf"a tensor \({WIDTH}, 30\)",
    "GradientOfFewerRows": rf"a tensor \(1, {WIDTH}\)",
    "ForwardTuple": "a tuple of 2",
}


@pytest.mark.parametrize("name", RULES)
def test_a_stage_names_what_a_rule_returned(name: str) -> None:
    rule: Rule = getattr(wrong_plugins, name)()
    stage = Stage(0, nn.Sequential(nn.Linear(WIDTH, WIDTH)), rule, Updater(None), send_targets=False)
    [message] = batches([30], True)
    message.h = torch.zeros(30, WIDTH)
    method = "forward" if "Forward" in name else "gradient"
    with pytest.raises(UserError, match=rf"^{name}\.{method} returned {RULES[name]}.*; it must return "):
        list(stage.on(message))


@pytest.mark.parametrize("name", ["StatsList", "StatsTensor"])
def test_a_report_names_what_a_rule_returned(name: str) -> None:
    stage = Stage(
        0, nn.Linear(WIDTH, WIDTH), getattr(wrong_plugins, name)(), Updater(None), send_targets=False
    )
    with pytest.raises(UserError, match=rf"^{name}\.stats returned a "):
        stage.stats()


@pytest.mark.parametrize("call", ["synthesize", "forward"])
@pytest.mark.parametrize("name", ["PredictionOfAnotherShape", "PredictionNone"])
def test_a_network_inside_a_flattened_one_is_named(name: str, call: str) -> None:
    flattened, h = Flattened(getattr(wrong_plugins, name)(16, 0, 16)), torch.zeros(3, 4, 2, 2)
    with pytest.raises(UserError, match=rf"^{name} gave a gradient of .* of shape \(3, 16\)"):
        flattened.synthesize(h, None) if call == "synthesize" else flattened(h)


def test_a_network_that_returns_no_prediction_when_it_learns_is_named() -> None:
    flattened, h = Flattened(wrong_plugins.RegressNone(16, 0, 16)), torch.zeros(3, 4, 2, 2)
    with pytest.raises(UserError, match=r"^RegressNone gave a gradient of None"):
        flattened.regress(h, None, h)


def test_values_are_described_by_what_can_be_wrong_with_them() -> None:
    described = {
        "None": None,
        "a value of type int": 3,
        "a list of 2": [1, 2],
        "a tensor (2, 3) of torch.float16 on cpu": torch.zeros(2, 3).half(),
    }
    assert {describe_value(value): value for value in described.values()}.keys() == described.keys()


@pytest.mark.parametrize("value", [None, 1.0, torch.zeros(2), torch.zeros(2, 3).long(), (torch.zeros(2, 3),)])
def test_a_gradient_is_a_tensor_of_floats_like_the_activation(value: object) -> None:
    h = torch.zeros(2, 3)
    check_like(object(), "gradient", torch.ones(2, 3).half(), h)
    with pytest.raises(UserError, match=r"must return a tensor of floats \(2, 3\) on cpu$"):
        check_like(object(), "gradient", value, h)


def test_a_report_of_numbers_and_text_is_returned_as_it_is() -> None:
    report = {"a": 1, "b": [0.5, None], "c": {"d": "e"}, "f": float("nan")}
    assert check_report(object(), "stats", report) is report
