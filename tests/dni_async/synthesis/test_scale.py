from __future__ import annotations

import pytest
import torch

from dni_async.synthesis.scale import UNITS, GradientScale


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("shape", [(7, 3), (1, 3), (5, 4, 3), (3, 2, 4, 4)])
def test_scaling_and_unscaling_returns_the_same_gradient(units: str, shape: tuple[int, ...]) -> None:
    scale = GradientScale(units)
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-5
    torch.testing.assert_close(scale.to_stage(scale.to_network(gradient)), gradient, rtol=1e-6, atol=0)


@pytest.mark.parametrize("units", UNITS)
def test_scaled_gradients_do_not_share_memory_with_the_target(units: str) -> None:
    gradient = torch.ones(4, 3)
    kept = GradientScale(units).to_network(gradient)
    before = kept.clone()
    gradient.fill_(9.0)
    assert torch.equal(kept, before)


def test_sample_units_are_the_gradient_of_the_per_sample_loss() -> None:
    h = torch.randn(6, 3, requires_grad=True)
    per_sample = h.square().sum(1)
    (of_the_mean,) = torch.autograd.grad(per_sample.mean(), h, retain_graph=True)
    (of_the_sum,) = torch.autograd.grad(per_sample.sum(), h)
    torch.testing.assert_close(GradientScale("sample").to_network(of_the_mean), of_the_sum)


def test_sample_units_follow_the_size_of_each_batch() -> None:
    scale = GradientScale("sample")
    assert scale.to_network(torch.ones(30, 1))[0].item() == 30
    assert scale.to_network(torch.ones(17, 1))[0].item() == 17
    assert scale.to_stage(torch.full((17, 1), 17.0))[0].item() == 1


def test_no_units_change_nothing() -> None:
    gradient = torch.randn(4, 3)
    assert torch.equal(GradientScale("none").to_network(gradient), gradient)
    assert torch.equal(GradientScale("none").to_stage(gradient), gradient)


def test_rms_units_divide_by_the_bias_corrected_running_rms() -> None:
    scale = GradientScale("rms")
    first = scale.to_network(torch.full((5, 2), -2.0))
    torch.testing.assert_close(first, torch.full((5, 2), -1.0))
    second = scale.to_network(torch.full((5, 2), 4.0))
    mean_square = (0.01 * 0.99 * 2**2 + 0.01 * 4**2) / (1 - 0.99**2)
    torch.testing.assert_close(second, torch.full((5, 2), 4 / mean_square**0.5))
    torch.testing.assert_close(scale.to_stage(second), torch.full((5, 2), 4.0))


def test_rms_units_leave_predictions_alone_before_the_first_target() -> None:
    prediction = torch.randn(4, 3)
    assert torch.equal(GradientScale("rms").to_stage(prediction), prediction)


def test_a_zero_gradient_stays_zero_in_rms_units() -> None:
    assert GradientScale("rms").to_network(torch.zeros(3, 2)).eq(0).all()


def test_unknown_units_are_refused() -> None:
    with pytest.raises(AssertionError, match="metres"):
        GradientScale("metres")
