"""What holds for all SG networks."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.networks import RNNDNI, Conv2dDNI, DNINetwork, LinearBatchNormDNI, LinearDNI, LinearSigmoidDNI
from dni_async.networks.least_squares import SOLVE_EVERY
from tests.support.sg_networks import (
    ALL_NETWORKS,
    LABELS,
    OLD_NETWORKS,
    build,
    fill,
    labels_for,
    synthesizer,
    train,
)

both = pytest.mark.parametrize("conditional", [False, True], ids=["plain", "conditional"])
every = pytest.mark.parametrize("name", OLD_NETWORKS)
everywhere = pytest.mark.parametrize("name", ALL_NETWORKS)
common = settings(max_examples=25, deadline=None, database=None)

batch_sizes = st.integers(1, 5)
widths = st.integers(1, 6)
layers = st.integers(0, 3)
label_sizes = st.sampled_from([0, 2])
pairs = st.one_of(st.integers(1, 4), st.tuples(st.integers(1, 4), st.integers(1, 4)))
paddings = st.one_of(st.just("SAME"), st.integers(0, 4), st.tuples(st.integers(0, 4), st.integers(0, 4)))


def check_shape(network: DNINetwork, h: Tensor, label_size: int) -> None:
    """Zero untrained, and filled a finite gradient of the shape of h and gradients for all parameters."""
    labels = torch.randn(network.samples_in(h), label_size) if label_size else None
    untrained = network.synthesize(h, labels)
    assert untrained.shape == h.shape
    assert untrained.eq(0).all()
    network.reset()
    fill(network)
    prediction = network.regress(h, labels, torch.ones_like(h))
    assert prediction.shape == h.shape
    assert prediction.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@common
@given(
    st.sampled_from([LinearDNI, LinearSigmoidDNI, LinearBatchNormDNI]),
    batch_sizes,
    st.lists(st.integers(1, 3), max_size=3),
    widths,
    layers,
    label_sizes,
    st.booleans(),
)
@example(LinearBatchNormDNI, 1, [], 3, 1, 0, True)
def test_linear_networks_predict_for_any_shape(
    network: type[LinearDNI],
    batch: int,
    between: list[int],
    width: int,
    num_layers: int,
    label_size: int,
    bias: bool,
) -> None:
    built = network(width, 2, width, num_layers=num_layers, bias=bias, label_size=label_size)
    check_shape(built, torch.randn(batch, *between, width), label_size)


@common
@given(batch_sizes, widths, st.tuples(st.integers(1, 6), st.integers(1, 6)), pairs, paddings, pairs, layers)
@example(1, 2, (1, 1), 1, 0, 1, 1)
@example(1, 2, (1, 1), 4, "SAME", 3, 3)
def test_the_gradient_of_an_image_has_its_height_and_width(
    batch: int,
    channels: int,
    size: tuple[int, int],
    kernel_size: int | tuple[int, int],
    padding: str | int | tuple[int, int],
    dilation: int | tuple[int, int],
    num_layers: int,
) -> None:
    for label_size in (0, 2):
        built = Conv2dDNI(
            channels,
            9,
            channels,
            convolutions=2,
            kernel_size=kernel_size,
            padding=padding,
            dilation=dilation,
            num_layers=num_layers,
            label_size=label_size,
        )
        check_shape(built, torch.randn(batch, channels, *size), label_size)


@common
@given(
    st.sampled_from(["lstm", "gru", "rnn"]),
    st.lists(st.tuples(batch_sizes, st.integers(0, 4)), min_size=1, max_size=4),
    widths,
    st.integers(1, 3),
    st.booleans(),
    label_sizes,
    st.booleans(),
)
def test_recurrent_networks_predict_for_any_run_of_batches(
    kind: str,
    batches: list[tuple[int, int]],
    width: int,
    num_layers: int,
    batch_first: bool,
    label_size: int,
    bias: bool,
) -> None:
    """Of changing batch size and length; length 0 stands for a single step (B, D)."""
    network = RNNDNI(
        width, 3, width, num_layers, batch_first=batch_first, bias=bias, kind=kind, label_size=label_size
    )
    for position, (batch, length) in enumerate(batches):
        sizes = [batch, length] if batch_first else [length, batch]
        h = torch.randn(*(sizes if length else [batch]), width)
        if position == 0:
            check_shape(network, h, label_size)
        labels = torch.randn(batch, label_size) if label_size else None
        assert network.synthesize(h, labels).shape == h.shape


@pytest.mark.parametrize("name", [*OLD_NETWORKS, "recipe mlp", "recipe conv"])
@both
def test_regression_passes_a_gradient_check_in_its_parameters_and_inputs(
    name: str, conditional: bool
) -> None:
    network, shape = build(name, conditional, hidden=2)
    network = network.double()
    fill(network)
    h, target = torch.randn(3, *shape).double(), torch.randn(3, *shape).double()
    labels = labels_for(3) if conditional else None
    names = [n for n, _ in network.named_parameters()]

    def loss(h: Tensor, *weights: Tensor) -> Tensor:
        parameters = dict(zip(names, weights, strict=True))
        prediction = torch.func.functional_call(network, parameters, (h, None, labels))[0]
        return F.mse_loss(prediction, target)

    weights = [p.detach().requires_grad_() for p in network.parameters()]
    assert torch.autograd.gradcheck(loss, (h.requires_grad_(), *weights), atol=1e-5, fast_mode=False)


@every
def test_regress_leaves_the_gradients_of_the_loss_also_where_autograd_is_off(name: str) -> None:
    """As in a backward hook, where pytorch-dni's networks learned nothing."""
    network, shape = build(name, conditional=True)
    network = network.double()
    fill(network)
    h, target, labels = torch.randn(3, *shape).double(), torch.randn(3, *shape).double(), labels_for(3)
    parameters = list(network.parameters())
    wanted = torch.autograd.grad(F.mse_loss(network(h, None, labels)[0], target), parameters)
    with torch.no_grad():
        network.regress(h, labels, target)
    for parameter, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@every
@both
def test_the_error_falls_on_a_stationary_problem(name: str, conditional: bool) -> None:
    """Gradients (h - c_y) / 2 at |h| <= 1, where c_y depends on the label when there are labels to see."""
    network, shape = build(name, conditional, hidden=12)
    torch.manual_seed(1)
    centres = (
        torch.randn(LABELS, *[1] * len(shape))
        if conditional
        else torch.full((LABELS, *[1] * len(shape)), 0.5)
    )

    def h() -> Tensor:
        return torch.randn(32, *shape).clamp(-1, 1)

    sg = synthesizer(network, lr=2e-2, conditional=conditional)
    errors = train(sg, 80, h, lambda h, y: (h - centres[y]) / 2)
    assert errors[0] == pytest.approx(1.0)
    assert max(errors[-10:]) < 0.4


def saved_and_loaded(network: DNINetwork) -> DNINetwork:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded, DNINetwork)
    return loaded


COPIES: dict[str, Callable[[DNINetwork], DNINetwork]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda network: pickle.loads(pickle.dumps(network)),
    "torch.save": saved_and_loaded,
}


@everywhere
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_continues_as_the_network_would(name: str, way: str) -> None:
    """In its weights, and in the hidden state that it carries."""
    network, shape = build(name, conditional=True)
    fill(network)
    h, labels = torch.randn(3, *shape), labels_for(3).float()
    network.synthesize(h, labels)
    other = COPIES[way](network)
    assert torch.equal(other.synthesize(h, labels), network.synthesize(h, labels))
    fill(other, seed=1)
    assert not torch.equal(other.synthesize(h, labels), network.synthesize(h, labels))


@everywhere
def test_a_state_dict_fills_a_fresh_network_whatever_the_batches_were(name: str) -> None:
    """Its names do not depend on use, and what weights_only loads is enough."""
    network, shape = build(name, conditional=True)
    fresh, _ = build(name, conditional=True)
    names = list(network.state_dict())
    fill(network)
    for rows in (3, 5):
        network.synthesize(torch.randn(rows, *shape), labels_for(rows).float())
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert list(fresh.state_dict()) == names
    h, labels = torch.randn(2, *shape), labels_for(2).float()
    assert torch.equal(fresh.synthesize(h, labels), network.synthesize(h, labels))


@everywhere
def test_a_network_can_change_its_dtype_between_batches(name: str) -> None:
    """The hidden state of another type is dropped, and the gradient has the type of the network."""
    network, shape = build(name, conditional=True)
    fill(network)
    h, labels = torch.randn(3, *shape), labels_for(3).float()
    before = network.synthesize(h, labels)
    network.synthesize(h, labels)
    network.double()
    after = network.synthesize(h.double(), labels.double())
    assert after.dtype == torch.float64
    torch.testing.assert_close(after.float(), before, rtol=1e-3, atol=1e-4)
    assert network.regress(h.double(), labels.double(), after).dtype == torch.float64
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} <= {torch.float64}


@everywhere
def test_a_network_works_on_the_device_of_its_parameters_and_inputs(name: str) -> None:
    """On the meta device, which refuses to meet tensors of the CPU."""
    network, shape = build(name, conditional=True)
    h, labels = torch.randn(3, *shape), labels_for(3).float()
    network.synthesize(h, labels)  # leaves a hidden state behind on the CPU
    network.to("meta")
    h, labels = h.to("meta"), labels.to("meta")
    for _ in range(2):
        gradient = network.synthesize(h, labels)
        assert (gradient.shape, gradient.device.type) == (h.shape, "meta")
    for _ in range(SOLVE_EVERY):
        assert network.regress(h, labels, h).device.type == "meta"
    assert {p.grad.device.type for p in network.parameters() if p.grad is not None} <= {"meta"}


@everywhere
def test_under_autocast_a_network_learns_in_32_bits(name: str) -> None:
    """As the same numbers in 32 bits do without autocast."""
    states = []
    for autocast in (True, False):
        network, shape = build(name, conditional=True)
        sg = synthesizer(network, conditional=True)
        torch.manual_seed(1)
        for step in range(2):
            h, y = torch.randn(3, *shape).bfloat16(), torch.arange(3)
            wanted = h.tanh()
            if not autocast:
                h, wanted = h.float(), wanted.float()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                assert sg.predict(step, 0, h, y).dtype == h.dtype
                sg.take(TargetGradient(step, 0, wanted))
        states.append({k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)})
    assert all(v.dtype == torch.float32 for v in states[0].values())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@everywhere
def test_a_network_predicts_the_same_in_train_and_in_eval_mode(name: str) -> None:
    network, shape = build(name, conditional=True)
    fill(network)
    h, labels = torch.randn(3, *shape), labels_for(3).float()
    trained = network.train().synthesize(h, labels)
    network.reset()
    assert torch.equal(network.eval().synthesize(h, labels), trained)


@every
def test_a_conditional_network_sees_its_labels_and_insists_on_them(name: str) -> None:
    network, shape = build(name, conditional=True)
    network = network.double()
    fill(network)
    h = torch.randn(3, *shape).double()
    seen = []
    for k in range(LABELS):
        network.reset()
        seen.append(network.synthesize(h, labels_for(3).roll(k, 0)))
    assert all((a - b).abs().max() > 1e-4 for a, b in itertools.combinations(seen, 2))
    with pytest.raises(UserError, match=r"conditional \(label_size 3\): give it labels \(B, 3\)"):
        network.synthesize(h, None)
    for labels in (torch.zeros(3, 4), torch.zeros(3)):
        with pytest.raises(UserError, match=r"do not fit an SG network of label_size 3: give it labels"):
            network.synthesize(h, labels.double())


@every
def test_labels_with_positions_that_the_activation_does_not_have_are_refused(name: str) -> None:
    network, shape = build(name, conditional=True)
    with pytest.raises(UserError, match=r"labels \(2, 5, 3\) do not fit activations \(2, .* cut elsewhere"):
        network.synthesize(torch.randn(2, *shape), torch.zeros(2, 5, LABELS))
