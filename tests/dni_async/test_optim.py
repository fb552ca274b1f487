from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from dni_async.learning_rates import schedule_factor
from dni_async.muon import MuonWithAdamW
from dni_async.optim import Updater, optimizer_factory
from dni_async.state.state_dict import copied
from tests.support.optimizers import OPTIMIZERS


def layer(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2, bias=False)


def with_gradient(module: nn.Linear, value: float = 1.0) -> nn.Linear:
    gradient = torch.full_like(module.weight, value)
    module.weight.grad = gradient
    return module


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_torch_is_known_by_its_name_in_any_case(name: str) -> None:
    parameters = list(layer().parameters())
    for spelling in (name, name.lower(), name.upper()):
        wanted = MuonWithAdamW if name == "Muon" else getattr(torch.optim, name)
        assert type(optimizer_factory(spelling, 0.01)(parameters)) is wanted


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_but_the_sparse_one_steps_dense_weights(name: str) -> None:
    module = with_gradient(layer())
    before = module.weight.detach().clone()
    Updater(optimizer_factory(name, 0.01)(list(module.parameters()))).step()
    assert not torch.equal(module.weight, before)
    assert module.weight.isfinite().all()


@pytest.mark.parametrize("name", ["adamm", "", "optimizer", "lbfgs"])
def test_an_unknown_optimizer_is_the_users_to_mend(name: str) -> None:
    with pytest.raises(UserError, match=rf"unknown optimizer \({name}\); use one of .*adam, .*sgd"):
        optimizer_factory(name, 0.1)


@pytest.mark.parametrize(("name", "setting"), [("sgd", "betas"), ("adam", "momentum"), ("adam", "params")])
def test_an_unknown_setting_is_the_users_to_mend(name: str, setting: str) -> None:
    with pytest.raises(UserError, match=f"optimizer {name} has no setting {setting}; it has .*weight_decay"):
        optimizer_factory(name, 0.1, **{setting: 1})


def test_settings_and_the_learning_rate_reach_the_optimizer() -> None:
    optimizer = optimizer_factory("SGD", 0.25, momentum=0.9, nesterov=True)(list(layer().parameters()))
    [group] = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.25, 0.9, True)


@pytest.mark.parametrize(
    ("name", "settings", "fused"),
    [
        ("adam", {}, True),
        ("sgd", {}, True),
        ("adam", {"fused": False}, False),
        ("adam", {"foreach": True}, None),
    ],
)
def test_the_fused_implementation_is_taken_unless_refused(
    name: str, settings: dict, fused: bool | None
) -> None:
    optimizer = optimizer_factory(name, 0.1, **settings)(list(layer().parameters()))
    assert optimizer.param_groups[0]["fused"] is fused


def test_the_schedule_scales_each_step() -> None:
    """SGD with gradient 1 moves by lr * factor: 0.1 * (1 + 0.75 + 0.5 + 0.25 + 0)."""
    module = layer()
    before = module.weight.detach().clone()
    updater = Updater(optimizer_factory("sgd", 0.1)(list(module.parameters())), schedule_factor("linear", 4))
    for _ in range(5):
        with_gradient(module)
        updater.step()
    torch.testing.assert_close(module.weight.detach(), before - 0.25)


def test_clipping_bounds_the_norm_of_the_stages_gradient() -> None:
    module = layer()
    before = module.weight.detach().clone()
    updater = Updater(optimizer_factory("sgd", 1.0)(list(module.parameters())), clip_norm=0.5)
    with_gradient(module, 100.0)
    updater.step()
    assert float((module.weight.detach() - before).norm()) == pytest.approx(0.5, rel=1e-4)


def test_a_small_gradient_is_not_clipped() -> None:
    module = layer()
    before = module.weight.detach().clone()
    updater = Updater(optimizer_factory("sgd", 1.0)(list(module.parameters())), clip_norm=0.5)
    with_gradient(module, 0.01)
    updater.step()
    torch.testing.assert_close(module.weight.detach(), before - 0.01)


def test_with_the_norm_of_the_whole_network_its_parts_are_clipped_as_one() -> None:
    whole = nn.ModuleList([layer(), layer()])
    wanted = copy.deepcopy(whole)
    for module in (whole, wanted):
        with_gradient(module[0], 3.0)
        with_gradient(module[1], 4.0)
    norm = torch.stack([p.grad.norm() for p in whole.parameters()]).norm()
    Updater(optimizer_factory("sgd", 1.0)(list(wanted.parameters())), clip_norm=0.5).step()
    parts = [*whole, None]
    norms = []
    for part in parts:
        optimizer = optimizer_factory("sgd", 1.0)(list(part.parameters())) if part else None
        updater = Updater(optimizer, clip_norm=0.5)
        updater.whole_norm = lambda own: norms.append(float(own)) or norm
        updater.step()
    for parameter, same in zip(whole.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(parameter, same)
    assert len(norms) == 3 and norms[2] == 0.0, "a part without parameters asks, too: the others wait for it"


def test_the_version_counts_the_steps_and_gradients_are_cleared() -> None:
    module = layer()
    updater = Updater(optimizer_factory("adam", 0.1)(list(module.parameters())))
    for version in (1, 2, 3):
        with_gradient(module)
        updater.step()
        assert updater.version == version
        assert module.weight.grad is None


def test_without_parameters_the_version_counts_all_the_same() -> None:
    updater = Updater(None, schedule_factor("linear", 4), clip_norm=1.0)
    updater.step()
    updater.step()
    assert updater.version == 2


def test_a_schedule_starts_at_its_first_factor() -> None:
    [group] = (optimizer := optimizer_factory("sgd", 0.5)(list(layer().parameters()))).param_groups
    Updater(optimizer, lambda version: 0.5 if version == 0 else 1.0)
    assert group["lr"] == 0.25


def test_from_its_state_an_updater_goes_on_at_the_rate_of_its_version() -> None:
    """Rates are those of the settings of now: 0.2 * (1 - 3/4) after three of four steps."""
    made = []
    for rate in (0.1, 0.2):
        module = layer()
        updater = Updater(
            optimizer_factory("adam", rate)(list(module.parameters())), schedule_factor("linear", 4)
        )
        made.append((module, updater))
    (module, updater), (_, other) = made
    for _ in range(3):
        with_gradient(module)
        updater.step()
    other.load_state_dict(copied(updater.state_dict()))
    assert other.version == 3
    assert other.optimizer is not None and updater.optimizer is not None
    assert updater.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.25)
    assert other.optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * 0.25)


def accumulating(module: nn.Module, batches: int) -> Updater:
    return Updater(optimizer_factory("adam", 0.1)(list(module.parameters())), accumulate=batches)


def test_an_update_by_several_batches_is_one_by_their_mean_gradient() -> None:
    module, wanted = layer(), layer()
    updater, single = (
        accumulating(module, 3),
        Updater(optimizer_factory("adam", 0.1)(list(wanted.parameters()))),
    )
    for gradients in ((1.0, 2.0, 6.0), (-3.0, 0.0, 9.0)):
        for gradient in gradients:
            for parameter in module.parameters():
                extra = torch.full_like(parameter, gradient)
                parameter.grad = extra if parameter.grad is None else parameter.grad + extra
            updater.step()
        with_gradient(wanted, sum(gradients) / 3)
        single.step()
    assert updater.version == 2
    for parameter, other in zip(module.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(parameter, other)
        assert parameter.grad is None


def test_a_gradient_that_waits_for_more_batches_is_saved() -> None:
    module, resumed = layer(), layer()
    updater, second = accumulating(module, 2), accumulating(resumed, 2)
    with_gradient(module, 3.0)
    updater.step()
    second.load_state_dict(updater.state_dict())
    for each, by in ((module, updater), (resumed, second)):
        for parameter in each.parameters():
            assert parameter.grad is not None
            parameter.grad += 1.0
        by.step()
    assert second.version == 1
    torch.testing.assert_close(module.weight, resumed.weight, rtol=0, atol=0)


def test_dropped_gradients_begin_a_new_update() -> None:
    module = layer()
    before = module.weight.detach().clone()
    updater = accumulating(module, 2)
    with_gradient(module)
    updater.step()
    updater.drop()
    with_gradient(module)
    updater.step()
    assert updater.version == 0 and torch.equal(module.weight, before)


def test_state_is_saved_in_the_order_of_the_parameters_whatever_their_groups() -> None:
    module = layer()
    first, *others = module.parameters()
    groups = [{"params": others, "lr": 0.1}, {"params": [first]}]
    updater = Updater(optimizer_factory("adam", 0.1)(groups), parameters=[first, *others])
    with_gradient(module)
    updater.step()
    state = updater.state_dict()
    assert [entry["exp_avg"].shape for entry in state["parameters"]] == [p.shape for p in module.parameters()]
    updater.load_state_dict(state)
    assert updater.state_dict()["parameters"][0]["exp_avg"].shape == first.shape


@pytest.mark.parametrize("factor", [None, lambda version: 1 / (1 + version)])
def test_a_step_at_a_share_of_the_rate_leaves_the_next_one_at_the_whole(factor) -> None:
    module = layer()
    updater = Updater(optimizer_factory("sgd", 0.1)(list(module.parameters())), factor)
    moved = []
    for rate in (1.0, 0.25, 1.0):
        before = with_gradient(module).weight.detach().clone()
        updater.step(rate)
        moved.append(round(float((before - module.weight).detach()[0, 0]), 6))
    factors = [factor(version) if factor else 1.0 for version in range(3)]
    assert moved == [round(0.1 * f * rate, 6) for f, rate in zip(factors, (1.0, 0.25, 1.0), strict=True)]
