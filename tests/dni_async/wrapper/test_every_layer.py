"""Any layer, any shape, any SG network, with labels or without, classic or unlocked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async import CDNI, DNI, RNNDNI, Conv2dDNI, LinearBatchNormDNI, LinearDNI, LinearSigmoidDNI

LABELS = 3
LINEAR = (None, LinearDNI, LinearSigmoidDNI, LinearBatchNormDNI)
SEQUENCES = (*LINEAR, RNNDNI)
KINDS = ("lstm", "gru", "rnn")

sizes = st.integers(1, 4)
property_test = settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)


class Cells(nn.Module):
    """A cell over the time of (B, T, D)."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        output: Tensor = state[0] if isinstance(state, tuple) else state
        return output


class First(nn.Module):
    """A module that gives a tuple, and what is done with it."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.core(x)[0]
        return output


def check(
    network: nn.Module, sg: type | None, params: dict[str, Any], batches: list[Tensor], way: dict[str, Any]
) -> None:
    """Trains on all batches; every weight gets a finite gradient, every batch teaches the SG network."""
    labels, unlock, batch_dim = way["labels"], way["unlock"], way.get("batch_dim", 0)
    settings: dict[str, Any] = {"recursive": False, "unlock": "update" if unlock else None, "λ": 0}
    made = CDNI if labels else DNI
    layers = {"layers": ["core" if hasattr(network, "core") else "cell"]} if way.get("inside") else {}
    net = made(network, sg, params, **settings, **layers, **({"label_size": LABELS} if labels else {}))
    for x in batches:
        if labels == "per step":
            net.register_labels(torch.randint(0, LABELS, (x.shape[batch_dim], x.shape[1 - batch_dim])))
        elif labels:
            net.register_labels(torch.randint(0, LABELS, (x.shape[batch_dim],)))
        with torch.no_grad():
            shape = network(x).shape
        output = net(x)
        assert output.shape == shape
        output.square().mean().backward()
    (row,) = net.dni_stats().values()
    assert row["updates"] == row["sg_updates"] / steps_per_target(net) >= len(batches)
    assert all(p.isfinite().all() for p in net.parameters())


def steps_per_target(net: DNI) -> int:
    """SG steps that belong to one batch."""
    (interface,) = net.interfaces.values()
    made = interface.synthesizer
    return 1 + int(made.replay) + int(made.network.learns_when_predicting)


@property_test
@given(
    st.sampled_from(LINEAR),
    st.lists(st.lists(sizes, min_size=1, max_size=4), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
)
def test_linear_layers_of_any_shape(sg: Any, shapes: list[list[int]], labels: bool, unlock: bool) -> None:
    batches = [torch.randn(*shape, 3) for shape in shapes]
    check(nn.Linear(3, 4), sg, {}, batches, {"labels": labels, "unlock": unlock})


@property_test
@given(
    st.sampled_from([None, Conv2dDNI]),
    st.lists(st.tuples(sizes, st.integers(3, 7), st.integers(3, 7)), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
)
def test_convolutions_of_any_size(
    sg: Any, images: list[tuple[int, int, int]], kernel: int, padding: int, labels: bool, unlock: bool
) -> None:
    batches = [torch.randn(batch, 2, *size) for batch, *size in images]
    params = {"kernel_size": kernel, "padding": padding} if sg else {}
    layer = nn.Conv2d(2, 4, kernel, padding=padding)
    check(layer, sg, params, batches, {"labels": labels, "unlock": unlock})


@property_test
@given(
    st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]),
    st.sampled_from(SEQUENCES),
    st.sampled_from(KINDS),
    st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, "per sample", "per step"]),
    st.booleans(),
)
def test_recurrent_layers_of_any_batch_and_length(
    core: Any,
    sg: Any,
    kind: str,
    runs: list[tuple[int, int]],
    batch_first: bool,
    said: bool | None,
    labels: str | None,
    unlock: bool,
) -> None:
    """Whatever `dni_params` says of `batch_first`, an RNN knows better."""
    batches = [torch.randn(*((b, t) if batch_first else (t, b)), 3) for b, t in runs]
    params = {"kind": kind} | ({} if said is None else {"batch_first": said}) if sg is RNNDNI else {}
    way = {"labels": labels, "unlock": unlock, "batch_dim": 0 if batch_first else 1, "inside": True}
    check(First(core(3, 4, batch_first=batch_first)), sg, params, batches, way)


@property_test
@given(
    st.sampled_from([nn.LSTMCell, nn.GRUCell, nn.RNNCell]),
    st.sampled_from(SEQUENCES),
    st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
)
def test_cells_of_any_batch_and_length(
    cell: Any, sg: Any, runs: list[tuple[int, int]], labels: bool, unlock: bool
) -> None:
    batches = [torch.randn(b, t, 3) for b, t in runs]
    check(Cells(cell(3, 4)), sg, {}, batches, {"labels": labels, "unlock": unlock, "inside": True})


def test_a_module_with_time_first_says_so_in_dni_params() -> None:
    """T = 5 and B = 2: labels for two samples fit only if the batch is found."""
    layer = nn.Linear(3, 4)
    way = {"labels": "per sample", "unlock": False, "batch_dim": 1}
    check(layer, RNNDNI, {"batch_first": False}, [torch.randn(5, 2, 3)], way)


@pytest.mark.parametrize("way", [{}, {"unlock": "update"}])
def test_the_hidden_state_of_sg_networks_goes_on_until_it_is_reset(way: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 4)
    frozen = torch.optim.SGD(layer.parameters(), lr=0.0)
    net = DNI(layer, RNNDNI, grad_optim="sgd", grad_lr=1.0, λ=0, optim=frozen, **way)
    x = torch.randn(2, 5, 3)

    def hidden() -> Tensor:
        F.mse_loss(net(x), torch.ones(2, 5, 4)).backward()
        state: Tensor = net.interfaces["network"].network._hidden_state[0]
        return state

    first, second = hidden(), hidden()
    assert not torch.equal(first, second) and not second.requires_grad
    net.reset_hidden()
    third = hidden()
    assert (third - first).abs().max() < (second - first).abs().max()
    x = torch.randn(3, 2, 3)
    net.interfaces["network"].network.start(x @ layer.weight.detach().T)
    assert net.interfaces["network"].network._hidden_state is None
