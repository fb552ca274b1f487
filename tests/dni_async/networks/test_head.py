from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.networks import ClassifierSG, FeatureHeadSG, HeadSG, TokenHeadSG

CLASSES = 4

Body = tuple[str, tuple[int, ...]]

IMAGES: Body = ("images", (3, 5, 6))
STRIDED: Body = ("images", (3, 9, 6))
FEATURES: Body = ("features", (7,))
HIDDEN: Body = ("hidden", (7,))
TIME: Body = ("features", (5, 7))
STEPS: Body = ("steps", (5, 7))

bodies = pytest.mark.parametrize(
    "body",
    [IMAGES, STRIDED, FEATURES, HIDDEN, TIME, STEPS],
    ids=["images", "images, stride 2", "features", "hidden layer", "a label per sample", "a label per step"],
)
some_bodies = pytest.mark.parametrize("body", [IMAGES, FEATURES], ids=["images", "features"])


def network_for(body: Body, scale: float = 0.3) -> ClassifierSG:
    torch.manual_seed(0)
    kind, shape = body
    network: ClassifierSG
    if kind == "images":
        network = HeadSG(shape[0], CLASSES, shape[1])
    else:
        of_features = FeatureHeadSG if len(shape) == 1 else TokenHeadSG
        network = of_features(shape[-1], CLASSES, hidden_size=8 if kind == "hidden" else 0)
    nn.init.constant_(network.log_scale, scale)
    return network.double()


def batch(body: Body, rows: int = 5) -> tuple[Tensor, Tensor]:
    """h (rows, *shape) and one-hot labels; one per step for the body "steps"."""
    kind, shape = body
    generator = torch.Generator().manual_seed(1)
    h = 1.5 * torch.randn(rows, *shape, generator=generator, dtype=torch.float64) + 0.2
    places = (rows, shape[0]) if kind == "steps" else (rows,)
    labels = torch.arange(torch.Size(places).numel()).view(places) % CLASSES
    return h, F.one_hot(labels, CLASSES).double()


def cross_entropy_by_hand(network: ClassifierSG, h: Tensor, labels: Tensor) -> Tensor:
    """The same head written out, from its weights."""
    logits = logits_of_images(network, h) if h.ndim == 4 else logits_of_features(network, h, labels)
    return -(labels * logits.log_softmax(-1)).sum(-1).mean()


def logits_of_images(network: ClassifierSG, h: Tensor) -> Tensor:
    conv, norm, _, _, _, readout = network.head
    z = F.conv2d(h, conv.weight, stride=2 if h.shape[2] >= 8 else 1, padding=1)
    mean, variance = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), correction=0, keepdim=True)
    z = (z - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    pooled = F.adaptive_avg_pool2d(z.relu(), 2).flatten(1)
    return pooled @ readout.weight.T + readout.bias


def logits_of_features(network: ClassifierSG, h: Tensor, labels: Tensor) -> Tensor:
    norm, *hidden, readout = network.head
    z = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    z = z * norm.weight + norm.bias
    if hidden:
        z = (z @ hidden[0].weight.T + hidden[0].bias).relu()
    logits = z @ readout.weight.T + readout.bias
    return logits.mean(1) if logits.ndim > labels.ndim else logits


@pytest.mark.parametrize(("height", "stride"), [(5, 1), (7, 1), (8, 2), (9, 2), (16, 2)])
def test_the_head_strides_from_height_8_on(height: int, stride: int) -> None:
    assert HeadSG(3, CLASSES, height).head[0].stride == (stride, stride)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (3, 3), (5, 2), (7, 9), (8, 8), (9, 11)])
def test_the_prediction_for_images_has_the_shape_of_h(height: int, width: int) -> None:
    images: Body = ("images", (3, height, width))
    h, labels = batch(images)
    gradient = network_for(images).synthesize(h, labels)
    assert gradient.shape == h.shape
    assert gradient.isfinite().all()


@bodies
def test_the_head_predicts_the_scaled_gradient_of_the_per_sample_cross_entropy(body: Body) -> None:
    network, (h, labels) = network_for(body), batch(body)
    leaf = h.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy_by_hand(network, leaf, labels), leaf)
    wanted = torch.tensor(0.3).double().exp() * 5 * gradient
    torch.testing.assert_close(network.synthesize(h, labels), wanted)
    torch.testing.assert_close(network(leaf, None, labels)[0].detach(), wanted)


@bodies
def test_an_untrained_head_predicts_a_gradient_that_is_not_zero(body: Body) -> None:
    """Its gradient is right in kind from the first step on, where the others start at zero."""
    h, labels = batch(body)
    assert network_for(body, scale=0.0).synthesize(h, labels).abs().max() > 1e-3


@bodies
def test_predicting_leaves_the_gradients_of_the_cross_entropy_and_none_for_the_scale(body: Body) -> None:
    network, (h, labels) = network_for(body), batch(body)
    parameters = list(network.head.parameters())
    wanted = torch.autograd.grad(cross_entropy_by_hand(network, h, labels), parameters)
    assert network.learns_when_predicting
    network.log_scale.grad = torch.ones_like(network.log_scale)
    network.synthesize(h, labels)
    for parameter, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert network.log_scale.grad is None


@some_bodies
def test_predicting_works_without_autograd_around_it_and_leaves_h_alone(body: Body) -> None:
    network, (h, labels) = network_for(body), batch(body)
    before = h.clone()
    with torch.no_grad():
        gradient = network.synthesize(h, labels)
    assert not gradient.requires_grad
    assert torch.equal(h, before)
    assert h.grad is None
    assert not h.requires_grad


@bodies
def test_regress_leaves_the_gradients_that_finite_differences_give(body: Body) -> None:
    """Of mean((g - t)^2) / mean(t^2), through the gradient g itself: a double backward."""
    network, (h, labels) = network_for(body), batch(body)
    target = torch.randn(h.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    network.regress(h, labels, target)
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert {name for name, gradient in gradients.items() if gradient is None} == set()

    def error() -> float:
        prediction = network.synthesize(h, labels)
        return float(F.mse_loss(prediction, target) / target.square().mean())

    eps = 1e-6
    for name, parameter in network.named_parameters():
        gradient, weight = gradients[name].flatten(), parameter.data.view(-1)
        largest = int(gradient.abs().argmax())
        value, errors = float(weight[largest]), []
        for moved in (value + eps, value - eps):
            weight[largest] = moved
            errors.append(error())
        weight[largest] = value
        assert gradient[largest].item() == pytest.approx((errors[0] - errors[1]) / (2 * eps), rel=1e-5), name


@some_bodies
def test_regress_returns_the_prediction_before_the_step(body: Body) -> None:
    network, (h, labels) = network_for(body), batch(body)
    prediction = network.regress(h, labels, torch.zeros_like(h))
    assert not prediction.requires_grad
    torch.testing.assert_close(prediction, network.synthesize(h, labels))


@some_bodies
def test_the_error_is_measured_against_the_bias_corrected_running_square_of_the_targets(body: Body) -> None:
    network, (h, labels) = network_for(body), batch(body)
    network.regress(h, labels, torch.full_like(h, 2.0))
    network.regress(h, labels, torch.full_like(h, 4.0))
    mean_square = float(network.target_square / (1 - 0.99**network.target_count))
    assert mean_square == pytest.approx((0.01 * 0.99 * 4 + 0.01 * 16) / (1 - 0.99**2), rel=1e-5)


@some_bodies
def test_small_and_large_gradients_teach_the_head_alike(body: Body) -> None:
    """Scaling g and t by the same factor changes no gradient of the head."""
    h, labels = batch(body)
    target = torch.randn_like(h)
    one, small = network_for(body, scale=0.0), network_for(body, scale=float(torch.tensor(1e-3).log()))
    one.regress(h, labels, target)
    small.regress(h, labels, target * 1e-3)
    torch.testing.assert_close(one.head[0].weight.grad, small.head[0].weight.grad, rtol=1e-5, atol=0)


def test_sequences_of_any_length_count_by_the_loss_of_a_label() -> None:
    """Sequences of equal steps: the gradient of the mean over T of them is 1/T of that of one step."""
    teachers = []
    for steps in (1, 2, 10):
        network = network_for(STEPS, scale=0.0)
        h, labels = batch(("steps", (1, 7)))
        h, labels = h.expand(-1, steps, -1), labels.expand(-1, steps, -1)
        one = torch.randn(5, 1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        network.regress(*batch(("steps", (1, 7))), torch.ones(5, 1, 7).double())
        network.regress(h, labels, one.expand(-1, steps, -1) / steps)
        teachers.append([network.target_square, *(p.grad for p in network.parameters())])
    for longer in teachers[1:]:
        for found, wanted in zip(longer, teachers[0], strict=True):
            torch.testing.assert_close(found, wanted)


def test_positions_without_a_label_get_no_gradient() -> None:
    """The row of an ignored label is zero; the others get what they get without it."""
    network, (h, labels) = network_for(STEPS), batch(STEPS)
    whole = network.synthesize(h, labels)
    labels[:, 2:] = 0
    masked = network.synthesize(h, labels)
    assert masked[:, 2:].eq(0).all()
    torch.testing.assert_close(masked[:, :2], whole[:, :2])


@some_bodies
def test_the_scale_is_learned(body: Body) -> None:
    """Against a target of its own direction, 3 times as long, the scale goes to 3."""
    network, (h, labels) = network_for(body, scale=0.0), batch(body)
    target = 3 * network.synthesize(h, labels)
    optimizer = torch.optim.Adam([network.log_scale], lr=3e-2)
    for _ in range(150):
        network.regress(h, labels, target)
        optimizer.step()
    assert network.log_scale.exp().item() == pytest.approx(3, rel=1e-2)


def test_features_may_have_any_scale_and_offset() -> None:
    """The layer norm takes both away from the logits, and the gradient scales as a gradient must."""
    network, (h, labels) = network_for(FEATURES), batch(FEATURES)
    torch.testing.assert_close(
        network.synthesize(100 * h + 7, labels), network.synthesize(h, labels) / 100, rtol=1e-3, atol=1e-7
    )


@bodies
def test_class_indices_say_what_one_hot_labels_say(body: Body) -> None:
    """An index of -1 is a row of zeros: a label that does not count."""
    h, labels = batch(body)
    labels[1:3] = 0
    indices = labels.argmax(-1).masked_fill(labels.eq(0).all(-1), -1)
    target = torch.randn(h.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = []
    for given in (labels, indices):
        network = network_for(body)
        predicted = network.synthesize(h, given)
        learned = [p.grad for p in network.head.parameters()]
        regressed = network.regress(h, given, target)
        found.append([predicted, *learned, regressed, *(p.grad for p in network.parameters())])
    for one_hot, index in zip(*found, strict=True):
        torch.testing.assert_close(index, one_hot)


def test_class_indices_of_other_positions_than_h_are_refused() -> None:
    network, (h, labels) = network_for(STEPS), batch(STEPS)
    with pytest.raises(UserError, match=r"labels \(5, 4\) do not fit activations \(5, 5, 7\)"):
        network.synthesize(h, labels.argmax(-1)[:, :4])


@bodies
def test_the_head_insists_on_labels(body: Body) -> None:
    h, _ = batch(body)
    with pytest.raises(UserError, match="conditional"):
        network_for(body).synthesize(h, None)
    with pytest.raises(UserError, match="conditional"):
        network_for(body).regress(h, None, h)


@pytest.mark.parametrize(("hidden", "channels"), [(0, 6), (10, 10)])
def test_the_head_has_twice_the_channels_of_h_by_default(hidden: int, channels: int) -> None:
    network = HeadSG(3, CLASSES, 5, hidden)
    assert network.head[0].out_channels == channels
    assert network.hidden_size == channels


def test_the_head_for_features_has_no_hidden_layer_by_default() -> None:
    plain, hidden = FeatureHeadSG(7, CLASSES), FeatureHeadSG(7, CLASSES, 9)
    assert [type(layer) for layer in plain.head] == [nn.LayerNorm, nn.Linear]
    assert [type(layer) for layer in hidden.head] == [nn.LayerNorm, nn.Linear, nn.ReLU, nn.Linear]
    assert (plain.hidden_size, hidden.hidden_size) == (0, 9)


def test_the_gradient_of_a_constant_row_is_finite_and_bounded() -> None:
    """Its layer norm divides by the square root of its eps alone, so multiplies by 316 (docs/LOG.md)."""
    torch.manual_seed(0)
    network = FeatureHeadSG(64, 10)
    labels = F.one_hot(torch.arange(20) % 10, 10).float()
    usual = network.synthesize(torch.randn(20, 64), labels).norm(dim=1).mean()
    for row in (0.0, 3.0):
        constant = network.synthesize(torch.full((20, 64), row), labels)
        assert constant.isfinite().all()
        assert constant.norm(dim=1).max() < 316 * 1.5 * usual
