"""An interface behaves in torch: saved, copied, moved, nested, compiled, in place, under no_grad."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dni_async import CDNI, DNI
from dni_async.errors import UserError
from dni_async.wrapper.interface import Call
from tests.support.nets import CLASSES, OldStyle, batch, cnn, mlp, same, train, values, weights

WAYS: list[dict[str, Any]] = [{}, {"unlock": "update"}]


def conditional(net: nn.Module, **settings: Any) -> CDNI:
    return CDNI(net, label_size=CLASSES, **settings)


@pytest.mark.parametrize("way", WAYS)
def test_a_state_dict_loads_into_a_fresh_instance(way: dict[str, Any]) -> None:
    net, fresh = conditional(mlp(), **way), conditional(mlp(5), **way)
    train(net)
    stored = io.BytesIO()
    torch.save(net.state_dict(), stored)
    stored.seek(0)
    fresh.load_state_dict(torch.load(stored, weights_only=True))
    assert same(values(net), values(fresh))
    train(fresh, 1)
    inside = net.interfaces["0"].network.state_dict()
    assert list(net.state_dict()) == [
        *(f"network.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")),
        *(
            f"interfaces.{i}.{part}"
            for i in (0, 2)
            for part in (
                "_extra_state",
                *(f"network.{name}" for name in inside),
            )
        ),
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_trains_on_alike_and_apart(twin: Any, way: dict[str, Any]) -> None:
    net = conditional(mlp(), **way)
    train(net)
    other = twin(net)
    before = values(other)
    train(net)
    assert same(values(other), before)
    train(other)
    assert same(values(other), values(net)) and not same(values(other), before)
    assert other.dni_stats() == net.dni_stats()


def test_a_copy_of_an_untrained_wrapper_trains() -> None:
    net = copy.deepcopy(DNI(mlp()))
    train(net)
    assert net.dni_stats()["0"]["sg_updates"] > 0


@pytest.mark.parametrize("λ", [0, 1])
def test_a_wrapper_moves_to_another_dtype_and_continues(λ: float) -> None:
    net = DNI(mlp(), λ=λ)
    train(net)
    net.double()
    x, y = batch()
    F.cross_entropy(net(x.double()), y).backward()
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    train(net.float(), 1)
    assert net.dni_stats()["0"]["updates"] == 5


def test_all_parameters_are_those_of_the_layers_and_of_the_sg_networks() -> None:
    net = DNI(mlp())
    assert len(list(net.parameters())) == 6
    train(net, 1)
    assert len(list(net.parameters())) == 6 + 2 * len(list(net.interfaces["0"].network.parameters()))


@pytest.mark.parametrize("way", WAYS)
def test_eval_mode_and_no_grad_pass_through_and_leave_nothing(way: dict[str, Any]) -> None:
    plain, net = mlp(), DNI(mlp(), **way)
    x, _ = batch()
    with torch.no_grad():
        assert torch.equal(net(x), plain(x))
    with torch.inference_mode():
        net(x)
    assert net.interfaces["0"].network is None
    net.eval()
    output = net(x)
    output.sum().backward()
    plain(x).sum().backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), plain.parameters(), strict=True))
    assert net.interfaces["0"].network is None and same(weights(net), values(plain))


def test_a_forward_without_a_backward_holds_nothing_once_its_output_is_gone() -> None:
    def calls() -> int:
        gc.collect()
        return sum(type(thing) is Call for thing in gc.get_objects())

    net, before = DNI(mlp()), calls()
    output = net(batch()[0])
    assert calls() == before + 2
    del output
    assert calls() == before


@pytest.mark.parametrize("way", WAYS)
def test_an_activation_may_work_in_place_behind_a_wrapped_layer(way: dict[str, Any]) -> None:
    inplace, apart = DNI(mlp(inplace=True), **way), DNI(mlp(), **way)
    train(inplace)
    train(apart)
    assert same(values(inplace), values(apart))


class Twice(nn.Module):
    """Runs one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.shared, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h = self.first(x).tanh()
        return self.last(self.shared(self.shared(h).tanh()).tanh())


@pytest.mark.parametrize("way", WAYS)
def test_a_shared_module_learns_from_both_calls(way: dict[str, Any]) -> None:
    net = DNI(Twice(), dni_params={"replay": 0}, **way)
    train(net)
    assert {name: row["sg_updates"] for name, row in net.dni_stats().items()} == {"first": 3, "shared": 6}


def test_a_shared_module_follows_backprop_with_lambda_1() -> None:
    plain, ours = Twice(), Twice()
    train(plain, opt=torch.optim.Adam(plain.parameters(), lr=1e-2))
    train(DNI(ours, λ=1, optim=torch.optim.Adam(ours.parameters(), lr=1e-2)))
    assert same(values(plain), values(ours))


class Skip(nn.Module):
    """The first layer's output goes two ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h = self.a(x).tanh()
        return self.last(h + self.b(h).tanh())


@pytest.mark.parametrize("way", WAYS)
def test_a_target_that_comes_in_parts_is_learned_from_as_their_sum(way: dict[str, Any]) -> None:
    model = Skip()
    frozen = torch.optim.SGD(model.parameters(), lr=0.0)
    net = DNI(model, OldStyle, optim=frozen, **way)
    x, y = batch()
    F.cross_entropy(net(x), y).backward()  # makes the SG networks
    learned: list[torch.Tensor] = []
    net.interfaces["a"].synthesizer.learn = lambda pending, target: learned.append(target)
    synthetic_at_b = copy.deepcopy(net.interfaces["b"].network)
    F.cross_entropy(net(x), y).backward()

    h = Skip().a(x).detach().requires_grad_()
    at_b = Skip().b(h.tanh())
    leaf = at_b.detach().requires_grad_()
    F.cross_entropy(Skip().last(h.tanh() + leaf.tanh()), y).backward()
    synthetic = synthetic_at_b(at_b.detach(), None)[0].detach() / len(x)
    at_b.backward(synthetic if way else torch.lerp(synthetic, leaf.grad, 0.5))
    assert len(learned) == 1
    torch.testing.assert_close(learned[0], h.grad)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_weights(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            return self.net[4](checkpoint(self.net[:4], x, use_reentrant=reentrant))

    plain, net = DNI(mlp(), OldStyle), DNI(Checkpointed(), OldStyle)
    for wrapped in (plain, net):
        for step in range(3):
            torch.manual_seed(step)  # SG networks are made at the first step, in one or the other order
            x, y = batch(step)
            F.cross_entropy(wrapped(x.requires_grad_()), y).backward()
    if not reentrant:
        assert same(weights(plain), weights(net))
    assert all(row["sg_updates"] == 3 for row in net.dni_stats().values())


def test_unlocked_checkpointed_layers_move_when_they_run_again() -> None:
    net = DNI(mlp(), OldStyle, unlock="update")
    for step in range(3):
        x, y = batch(step)
        h = checkpoint(net.network[:4], x.requires_grad_(), use_reentrant=True)
        F.cross_entropy(net.network[4](h), y).backward()
    assert [(row["updates"], row["sg_updates"]) for row in net.dni_stats().values()] == [(3, 3)] * 2
    assert not same(weights(net), values(mlp()))


def test_an_empty_batch_passes_through() -> None:
    net = DNI(mlp())
    net(batch(size=0)[0]).sum().backward()
    assert net.interfaces["0"].network is None


@pytest.mark.parametrize("way", WAYS)
def test_autocast_keeps_the_sg_networks_in_full_precision(way: dict[str, Any]) -> None:
    net = conditional(mlp(), **way)
    x, y = batch()
    net.register_labels(y)
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert net.dni_stats()["2"]["sg_updates"] > 0


def test_a_network_in_bfloat16_has_sg_networks_in_full_precision() -> None:
    net = DNI(mlp().bfloat16())
    x, y = batch()
    F.cross_entropy(net(x.bfloat16()).float(), y).backward()
    assert {p.dtype for p in net.interfaces.parameters()} == {torch.float32}
    net.bfloat16()
    F.cross_entropy(net(x.bfloat16()).float(), y).backward()


def compiled_layers(backend: str) -> nn.Module:
    net = mlp()
    net[0], net[2] = torch.compile(net[0], backend=backend), torch.compile(net[2], backend=backend)
    return DNI(net)


def compiled_in_place(backend: str) -> nn.Module:
    net = mlp()
    net[0].compile(backend=backend)
    return DNI(net)


@pytest.mark.filterwarnings("ignore")  # dynamo's own
@pytest.mark.parametrize(
    "compiled",
    [compiled_layers, compiled_in_place, lambda backend: torch.compile(DNI(mlp()), backend=backend)],
)
def test_compiled_layers_are_wrapped_like_others(compiled: Any) -> None:
    net, plain = compiled("eager"), DNI(mlp())
    train(net)
    train(plain)
    assert net.dni_stats() == plain.dni_stats()
    assert same(weights(getattr(net, "_orig_mod", net)), weights(plain))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("core", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_give_their_output_sequence(
    core: Any, batch_first: bool, way: dict[str, Any]
) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.last = core(6, 8, batch_first=batch_first), nn.Linear(8, CLASSES)

        def forward(self, x):
            return self.last(self.core(x)[0])

    net = DNI(Tagger(), **way)
    for size, length in ((4, 5), (2, 7), (3, 1)):
        x = torch.randn(size, length, 6) if batch_first else torch.randn(length, size, 6)
        net(x).square().mean().backward()
    assert net.dni_stats()["core"]["sg_updates"] == 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_are_interfaces_at_every_step(cell: Any, way: dict[str, Any]) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.last = cell(6, 8), nn.Linear(8, CLASSES)

        def forward(self, x):
            state = None
            for step in x:
                state = self.cell(step, state)
            return self.last(state[0] if isinstance(state, tuple) else state)

    net = DNI(Tagger(), **way)
    for size in (4, 2):
        net(torch.randn(3, size, 6)).square().mean().backward()
    assert net.dni_stats()["cell"]["sg_updates"] == 6


@pytest.mark.parametrize("way", WAYS)
def test_images_get_the_structured_sg_network(way: dict[str, Any]) -> None:
    net = conditional(cnn(), **way)
    for size in (4, 2):
        x, y = batch(size=size, shape=(2, 6, 5))
        net.register_labels(y)
        F.cross_entropy(net(x), y).backward()
    assert type(net.interfaces["0"].network).__name__ == "HeadSG"
    plain = DNI(cnn(), **way)
    F.cross_entropy(plain(x), y).backward()
    assert type(plain.interfaces["3"].network).__name__ == "ConvSG"


def test_the_tensor_of_an_output_is_chosen_by_format_fn() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 2), nn.Linear(6, 8)

        def forward(self, x):
            return {"small": self.a(x), "large": [self.b(x)]}

    net = DNI(Two(), recursive=False, format_fn=lambda output, module: output["large"][0])
    output = net(batch()[0])
    (output["large"][0].sum() + output["small"].sum()).backward()
    assert net.interfaces["network"].network.output.out_features == 8


def test_an_output_without_a_tensor_is_refused() -> None:
    class Nothing(nn.Linear):
        def forward(self, x):
            return ()

    with pytest.raises(UserError, match="Nothing gives tuple, in which there is no tensor; say"):
        DNI(Nothing(6, 2))(batch()[0])
