"""The wrapper in an ordinary loop: it learns, and with λ = 1 it is backprop."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dni_async
from dni_async import CDNI, DNI, Conv2dDNI, DNINetwork
from dni_async.errors import UserError
from tests.support.nets import (
    CLASSES,
    WIDTH,
    Narrow,
    OldStyle,
    adam,
    batch,
    hooks,
    mlp,
    same,
    sg_weights,
    train,
    values,
    weights,
)


def full_batch(net: DNI, x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    for _ in range(steps):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
    return loss.item()


def tldr(seed: int, conditional: bool, **settings: Any) -> float:
    """pytorch-dni's README, on a 20-64-64-5 MLP: its loss went from 1.63 to 1.30 at best."""
    torch.manual_seed(seed)
    x = torch.randn(256, 20)
    y = (x @ torch.randn(20, 5)).argmax(1)
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    if not conditional:
        return full_batch(DNI(net, **settings), x, y, 300)
    wrapped = CDNI(net, label_size=5, **settings)
    wrapped.register_labels(y)
    return full_batch(wrapped, x, y, 300)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_with_synthetic_gradients_alone_three_hundred_steps_learn_the_training_set(seed: int) -> None:
    assert tldr(seed, conditional=False, λ=0) < 0.5
    assert tldr(seed, conditional=True, λ=0) < 0.1


def test_with_the_default_mix_the_arguments_of_the_old_readme_learn() -> None:
    assert tldr(0, conditional=False, grad_optim="adam", grad_lr=0.0001) < 0.1


def test_an_unlocked_wrapper_learns() -> None:
    assert tldr(0, conditional=True, unlock="update") < 0.1


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), torch.optim.Adam])
def test_with_lambda_1_weights_follow_backprop_to_the_bit(make: Any) -> None:
    plain, ours, outside = mlp(), mlp(), mlp()
    train(plain, 5, opt=make(plain.parameters()))
    train(DNI(ours, λ=1, optim=make(ours.parameters())), 5)
    train(DNI(outside, λ=1, update_weights=False), 5, opt=make(outside.parameters()))
    assert same(values(ours), values(plain))
    assert same(values(outside), values(plain))


class Exact(DNINetwork):
    """An oracle: the layers above, with their weights of now, and the labels."""

    above: nn.Module
    labels: torch.Tensor

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(input_size, hidden_size, output_size)
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, input, hidden):
        with torch.enable_grad():
            h = input.detach().requires_grad_()
            loss = F.cross_entropy(Exact.above(h), Exact.labels)
            (gradient,) = torch.autograd.grad(loss, h)
        return gradient * len(h) + 0 * self.unused, None


@pytest.mark.parametrize("layer", [0, 2, 4])
@pytest.mark.parametrize("unlock", [None, "update"])
def test_with_an_oracle_weights_follow_backprop_to_the_bit(unlock: str | None, layer: int) -> None:
    plain, ours = mlp(), mlp()
    train(plain, 5, opt=adam(plain))
    net = DNI(ours, Exact, λ=0, layers=[str(layer)], unlock=unlock, optim=adam(ours))
    Exact.above = copy.deepcopy(ours[layer + 1 :])  # without hooks, and its weights shared
    for copied, own in zip(Exact.above.parameters(), ours[layer + 1 :].parameters(), strict=True):
        copied.data = own.data
    for step in range(5):
        x, Exact.labels = batch(step)
        F.cross_entropy(net(x), Exact.labels).backward()
    assert same(values(ours), values(plain))
    assert net.dni_stats()[str(layer)]["relative_error"] == 0


def test_the_mix_is_what_flows_back() -> None:
    def gradient(λ: float) -> torch.Tensor:
        net = DNI(mlp(), OldStyle, λ=λ, layers=["2"], update_weights=False)
        torch.manual_seed(3)
        train(net, 1)
        return net.network[2].weight.grad

    torch.testing.assert_close(gradient(0.25), 0.75 * gradient(0) + 0.25 * gradient(1))
    assert torch.equal(gradient(-1), gradient(0)) and not torch.equal(gradient(0), gradient(1))


def test_lambda_has_a_name_in_ascii() -> None:
    nets = [DNI(mlp(), lambda_=0.25), DNI(mlp(), λ=0.25), DNI(mlp())]
    for net in nets:
        train(net)
    ascii_, greek, other = (weights(net) for net in nets)
    assert same(ascii_, greek) and not same(ascii_, other)


def test_sg_weights_move_and_the_error_falls_on_a_stationary_problem() -> None:
    torch.manual_seed(0)
    net = CDNI(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), label_size=3, update_weights=False, λ=0)
    x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
    net.register_labels(y)
    full_batch(net, x, y, 1)
    before = sg_weights(net)
    assert net.dni_stats(reset=True)["0"]["relative_error"] == 1.0  # an untrained one predicts nothing
    full_batch(net, x, y, 500)
    assert not same(sg_weights(net), before)
    net.dni_stats(reset=True)
    full_batch(net, x, y, 8)
    stats = net.dni_stats()["0"]
    assert stats["relative_error"] < 0.1 and stats["cosine"] > 0.99 and stats["sg_updates"] == 509


def test_a_linear_sg_network_finds_the_exact_gradient_of_a_quadratic_loss() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 4).double()
    net = DNI(layer, dni_params={"kind": "linear"}, grad_optim="sgd", grad_lr=1.0, λ=0, update_weights=False)
    matrix = torch.randn(4, 4, dtype=torch.float64)
    x = torch.randn(64, 3, dtype=torch.float64)
    for _ in range(500):
        ((net(x) @ matrix).square().sum(1)).mean().backward()
    h = layer(x).detach()
    exact = 2 * h @ matrix @ matrix.T
    sg = net.interfaces["network"].network
    torch.testing.assert_close(sg(h)[0], exact, atol=1e-4, rtol=0)


def test_opt_step_behind_it_moves_nothing_twice() -> None:
    without, with_step = mlp(), mlp()
    train(DNI(without), 5)
    opt = adam(with_step)
    train(DNI(with_step), 5, opt=opt)
    assert same(values(without), values(with_step)) and not same(values(without), values(mlp()))
    assert all(p.grad is None for p in with_step.parameters())


def test_the_users_optimizer_and_its_schedule_hold() -> None:
    net = mlp()
    opt = torch.optim.SGD(net.parameters(), lr=0.0)
    wrapped = DNI(net, optim=opt)
    train(wrapped)
    assert same(values(net), values(mlp()))
    opt.param_groups[0]["lr"] = 0.1
    train(wrapped)
    assert not same(values(net), values(mlp()))


@pytest.mark.parametrize("name", ["sgd", "adam", "AdamW", "rmsprop", "adagrad", "adamax", "adadelta"])
def test_sg_networks_learn_with_any_optimizer_of_torch(name: str) -> None:
    net = DNI(mlp(), grad_optim=name)
    train(net, 1)
    before = sg_weights(net)
    train(net, 2)
    assert not same(sg_weights(net), before)


def test_the_last_layer_is_wrapped_when_asked() -> None:
    assert list(DNI(mlp()).dni_stats()) == ["0", "2"]
    assert list(DNI(mlp(), skip_last_layer=False).dni_stats()) == ["0", "2", "4"]
    assert list(DNI(mlp(), recursive=False).dni_stats()) == ["network"]
    assert list(DNI(mlp(), layers=["2"]).dni_stats()) == ["2"]


def test_hidden_size_and_dni_params_reach_the_sg_networks() -> None:
    net = DNI(mlp(), OldStyle, dni_params={"num_layers": 3}, hidden_size=5)
    train(net, 1)
    sg = net.interfaces["0"].network
    assert [tuple(layer.weight.shape) for layer in sg.hidden_layers] == [(5, WIDTH), (5, 5), (5, 5)]
    net = DNI(mlp(), OldStyle)
    train(net, 1)
    assert net.interfaces["0"].network.final.in_features == 10
    for settings in ({"dni_params": {"kind": "mlp", "hidden": 7}}, {"hidden_size": 7}):
        net = DNI(mlp(), **{"dni_params": {"kind": "mlp"}} | settings)
        train(net, 1)
        assert net.interfaces["0"].network.output.in_features == 7


def test_conditional_sg_networks_see_the_labels() -> None:
    net = CDNI(mlp(), label_size=CLASSES, λ=0, dni_params={"kind": "linear"})
    train(net, 3)
    x, y = batch()
    net.register_labels(y)
    h = net.network[0](x).detach()
    sg = net.interfaces["0"].network
    one, other = (sg(h, None, F.one_hot((y + i) % CLASSES, CLASSES).float())[0] for i in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "labels", [torch.rand(4, CLASSES), torch.tensor([0, 2, 1, 0], dtype=torch.int32), [0, 2, 1, 0]]
)
def test_labels_may_be_classes_or_floats(labels: Any) -> None:
    net = CDNI(mlp(), label_size=CLASSES)
    net.register_labels(labels)
    net(batch()[0]).sum().backward()
    assert net.dni_stats()["0"]["sg_updates"] > 0


def test_old_style_networks_get_the_labels_joined_to_their_input() -> None:
    net = CDNI(mlp(), OldStyle, label_size=CLASSES, λ=0)
    train(net, 1)
    assert net.interfaces["0"].network.network.hidden_layers[0].in_features == WIDTH + CLASSES


def test_wrapping_twice_and_removing_leave_no_hooks() -> None:
    net = mlp()
    first = DNI(net, skip_last_layer=False)
    assert hooks(net) == 3
    second = DNI(net)
    assert hooks(net) == 2
    train(second)
    assert first.dni_stats()["0"]["updates"] == 0 and second.dni_stats()["0"]["updates"] == 3
    twin = copy.deepcopy(second)
    assert hooks(twin.remove()) == 0 and hooks(net) == 2
    third = DNI(second)
    assert third.network is net and hooks(net) == 2
    assert third.remove() is net and hooks(net) == 0
    train(third)
    assert third.dni_stats()["0"]["updates"] == 0


def test_a_wrapper_inside_is_left_alone() -> None:
    inner = DNI(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8)), recursive=False)
    outer = DNI(nn.Sequential(inner, nn.Linear(8, 8), nn.Linear(8, CLASSES)))
    before = weights(inner)
    train(outer)
    assert list(outer.dni_stats()) == ["1"] and inner.dni_stats()["network"]["updates"] == 3
    assert not same(weights(inner), before)
    held = {id(p) for group in outer._shared.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in inner.parameters()}


BAD: list[tuple[Any, str]] = [
    (lambda: DNI(torch.relu), "; give a torch.nn.Module"),
    (lambda: DNI(nn.ReLU()), "ReLU has no parameters; wrap a module that has something to train"),
    (lambda: DNI(nn.Sequential(nn.ReLU())), "Sequential has no parameters"),
    (lambda: DNI(nn.Sequential(nn.Linear(2, 2))), "has only one layer; use recursive=False"),
    (lambda: DNI(mlp(), layers=["9"]), "no layer 9 in Sequential"),
    (lambda: DNI(mlp(), layers=["1"]), "layer 1 has no parameters"),
    (lambda: DNI(mlp(), layers="0"), "layers is '0'; give a list of names"),
    (lambda: DNI(mlp(), layers=[]), "layers is []; give a list of names"),
    (lambda: DNI(mlp(), grad_optim=None), "grad_optim is None; give the name of an optimizer"),
    (lambda: DNI(mlp(), grad_optim="adm"), "unknown optimizer (adm); use one of adadelta, "),
    (lambda: DNI(mlp(), grad_lr=-1.0), "grad_lr is -1.0; it must be positive"),
    (lambda: DNI(mlp(), optim="adam"), "optim is 'adam'; give an optimizer of torch.optim"),
    (lambda: DNI(mlp(), λ="1"), "λ is '1'; give a number"),
    (lambda: DNI(mlp(), λ=1.5), "λ is 1.5; it must be 0 (synthetic) to 1 (backprop)"),
    (lambda: DNI(mlp(), lambda_=-0.5), "λ is -0.5"),
    (lambda: DNI(mlp(), unlock="now"), "unlock is 'now'; use None or \"update\""),
    (lambda: DNI(mlp(), λ=1, unlock="update"), "λ=1 waits for the true gradient"),
    (lambda: DNI(mlp(), unlock="update", update_weights=False), "use it with update_weights=True"),
    (lambda: DNI(mlp(), gpu_id=99), "gpu_id is 99, and there are "),
    (lambda: DNI(mlp(), dni_params={"num_layers": 2}), "the default SG network has no setting num_layers"),
    (lambda: DNI(mlp(), dni_params=2), "dni_params is 2; give a dict"),
    (lambda: DNI(mlp(), hidden_size=0), "hidden is 0; it must be at least 1"),
    (lambda: DNI(mlp(), dni_network="linear"), "dni_network is 'linear'; give a class"),
    (lambda: DNI(mlp(), dni_network=int), "dni_network is <class 'int'>; give a class"),
    (
        lambda: train(DNI(mlp(), Conv2dDNI)),
        "layer 0 (Linear): Conv2dDNI predicts for (B, C, H, W), not for (4, 8); use a linear one",
    ),
    (lambda: train(DNI(mlp(), OldStyle, dni_params={"depth": 2})), "OldStyle cannot be made ("),
    (
        lambda: train(DNI(mlp(), Narrow)),
        "layer 0 (Linear): Narrow gave a gradient of shape (4, 7) for an activation of shape (4, 8)",
    ),
    (lambda: train(DNI(mlp(), format_fn=lambda o, m: o[:, :2])), "format_fn must give one of the tensors"),
    (lambda: CDNI(mlp(), label_size=0), "label_size is 0; give the number of classes"),
    (
        lambda: CDNI(mlp(), label_size=3)(batch()[0]),
        "CDNI has no labels for this batch; call register_labels",
    ),
    (
        lambda: CDNI(mlp(), label_size=3).register_labels(torch.tensor([0, 3])),
        "label 3 is outside the classes 0 to 2; change label_size or the data",
    ),
    (lambda: CDNI(mlp(), label_size=3).register_labels(torch.tensor([-1, 2])), "label -1 is outside"),
    (lambda: CDNI(mlp(), label_size=3).register_labels(torch.rand(4, 2)), "labels have the shape (4, 2)"),
]


@pytest.mark.parametrize(("act", "words"), BAD, ids=[words[:30] for _, words in BAD])
def test_bad_input_is_named_with_its_remedy(act: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        act()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_labels_of_another_batch_are_refused() -> None:
    net = CDNI(mlp(), label_size=3)
    net.register_labels(batch(size=5)[1])
    with pytest.raises(UserError, match="5 labels are registered for a batch of 4"):
        net(batch()[0])


@pytest.mark.gpu
def test_on_a_gpu_sg_networks_follow_the_layers() -> None:
    net = CDNI(mlp(), label_size=CLASSES, gpu_id=0)
    for step in range(3):
        x, y = (t.cuda() for t in batch(step))
        net.register_labels(y)
        F.cross_entropy(net(x), y).backward()
    assert all(p.is_cuda for p in net.parameters())
    train(net.cpu(), 2)


def test_names_are_exported_without_loading_anything_before_they_are_used() -> None:
    assert set(dni_async.__all__) >= {"DNI", "CDNI", "DNINetwork"}
    for name in dni_async.__all__:
        assert callable(getattr(dni_async, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dni_async.nothing  # noqa: B018
    loaded = "import sys, dni_async; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
