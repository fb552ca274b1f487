from __future__ import annotations

import pytest
import torch
from torch import nn

from dni_async.loss_scaling import LossScaler
from dni_async.nonfinite import NonFinite
from dni_async.optim import Updater, optimizer_factory
from dni_async.rules import DelayedRule, DniRule
from dni_async.rules.base import Rule
from dni_async.stage.simulation import Simulation
from dni_async.state.checkpoint import load_weights_state, weights_state
from tests.support.stages import batches, fcn, pipeline, same_bits, state_of, synthesizer, with_stop

SIZES = (30, 30, 17, 30, 30, 30)


def updater_of(module: nn.Module, scaler: LossScaler | None, accumulate: int = 1) -> Updater:
    optimizer = optimizer_factory("adam", 1e-2)(list(module.parameters()))
    return Updater(optimizer, clip_norm=0.5, accumulate=accumulate, scaler=scaler)


def test_the_scale_halves_with_an_infinite_value_and_doubles_after_enough_finite_ones() -> None:
    scaler = LossScaler(8.0, growth_interval=2)
    finite, infinite = torch.tensor([8.0]), torch.tensor([float("inf")])
    assert scaler.unscale([finite]) and finite.item() == 1.0
    assert not scaler.unscale([infinite]) and scaler.scale == 4.0
    scales = []
    for _ in range(4):
        assert scaler.unscale([torch.ones(1)])
        scales.append(scaler.scale)
    assert scales == [4.0, 8.0, 8.0, 16.0]
    assert scaler.stats() == {"loss_scale": 16.0, "updates_skipped": 1}


def test_values_that_stay_infinite_without_a_scale_end_the_run() -> None:
    scaler = LossScaler(2.0)
    assert not scaler.unscale([torch.tensor([float("nan")])])
    with pytest.raises(NonFinite, match="however small its scale"):
        scaler.unscale([torch.tensor([float("nan")])])


def test_all_that_have_one_scale_leave_out_an_update_together() -> None:
    scaler = LossScaler(2.0)
    scaler.agree = lambda finite: False
    assert not scaler.unscale([torch.ones(1)]) and scaler.skipped == 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_updater_makes_the_same_updates_from_scaled_losses(accumulate: int) -> None:
    plain, scaled = (nn.Sequential(*fcn()) for _ in range(2))
    first = updater_of(plain, None, accumulate)
    second = updater_of(scaled, LossScaler(2.0**16), accumulate)
    for step in range(4):
        x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
        for module, updater in ((plain, first), (scaled, second)):
            updater.scaled(module(x).square().mean()).backward()
            updater.step()
    assert first.version == second.version == 4 // accumulate
    assert same_bits(list(plain.state_dict().values()), list(scaled.state_dict().values()))


def test_an_update_that_overflows_is_left_out_and_does_not_count() -> None:
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    updater = updater_of(module, LossScaler(2.0**127))
    updater.scaled(1e3 * module(torch.ones(1, 2)).sum()).backward()
    updater.step()
    assert updater.version == 0 and module.weight.grad is None and torch.equal(module.weight, before)
    assert updater.scaler and updater.scaler.scale == 2.0**126


def test_the_scale_is_saved_with_the_weights() -> None:
    module = nn.Linear(2, 2)
    updater, resumed = updater_of(module, LossScaler(64.0)), updater_of(module, LossScaler())
    assert updater.scaler and resumed.scaler
    updater.scaler.unscale([torch.tensor([float("inf")])])
    load_weights_state(module, resumed, weights_state(module, updater))
    assert resumed.scaler.state_dict() == {"scale": 32.0, "finite": 0, "skipped": 1}
    load_weights_state(module, resumed, weights_state(module, updater_of(module, None)))
    assert resumed.scaler.scale == 32.0


def run(rule: str, scale: float | None) -> Simulation:
    def make() -> Rule:
        return DelayedRule(2) if rule == "delayed" else DniRule(synthesizer())

    def updater(module: nn.Module) -> Updater:
        return updater_of(module, None if scale is None else LossScaler(scale))

    return Simulation(pipeline(rule=make, make_updater=updater)).run(with_stop(batches(SIZES)))


@pytest.mark.parametrize("rule", ["dni", "delayed"])
def test_stages_train_from_scaled_gradients_as_from_others_to_the_bit(rule: str) -> None:
    assert same_bits(state_of(run(rule, 2.0**16).stages), state_of(run(rule, None).stages))


@pytest.mark.parametrize("rule", ["dni", "delayed"])
def test_stages_whose_gradients_overflow_go_on_with_smaller_scales(rule: str) -> None:
    stages = run(rule, 2.0**130).stages
    for stage in stages:
        stats = stage.stats()
        assert stage.steps == len(SIZES)
        assert stage.version + stats["updates_skipped"] + stage.skipped == len(SIZES)
    assert sum(stage.stats()["updates_skipped"] for stage in stages) > 0
    assert all(stage.targets_received == len(SIZES) for stage in stages[:-1])
    assert all(value.isfinite().all() for value in state_of(stages))
