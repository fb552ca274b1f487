from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni_async.partition.deferred_init import CannotDefer, Key, Recorder, reference_to


def table() -> nn.Module:
    """A buffer that is computed, in two dimensions."""
    module = nn.Module()
    angles = torch.arange(6).unsqueeze(1) * torch.exp(torch.arange(0, 8, 2) * -0.1)
    module.register_buffer("table", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
    return module


def initialised(fill: Callable[[Tensor], object]) -> nn.Module:
    layer = nn.Linear(6, 4)
    fill(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.arange(4.0) / 3)
        layer.weight[2:].mul_(2.0)
    return layer


def in_place(fill: Callable[[Tensor], object]) -> nn.Module:
    with torch.no_grad():
        return initialised(fill)


MODULES: list[Callable[[], nn.Module]] = [
    lambda: nn.LSTM(4, 5, 2),
    lambda: nn.BatchNorm2d(3),
    lambda: nn.TransformerEncoderLayer(8, 2, 16),
    lambda: nn.Embedding(10, 8, padding_idx=0),
    lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)),
    lambda: in_place(lambda w: w.__setitem__((slice(1, 3), 0), 1.0)),
    lambda: in_place(lambda w: w.__setitem__(w > 0.1, 5)),
    lambda: initialised(nn.init.orthogonal_),
    lambda: initialised(lambda w: nn.init.sparse_(w, 0.5)),
    lambda: initialised(nn.init.kaiming_normal_),
    lambda: nn.Linear(3, 3, dtype=torch.bfloat16),
    table,
]


@pytest.mark.parametrize("make", MODULES)
def test_a_replayed_module_has_the_values_of_one_that_is_built_as_usual(
    make: Callable[[], nn.Module],
) -> None:
    with Recorder() as recorder:
        recorded = make()
    torch.manual_seed(3)
    usual = make().state_dict()
    torch.manual_seed(3)
    storages: dict[Key, torch.UntypedStorage] = {}
    recorder.replay(range(len(recorder.tape)), storages)
    state = recorded.state_dict(keep_vars=True)
    deferred = {name: tensor for name, tensor in state.items() if recorder.knows(tensor)}
    assert len(deferred) >= len(state) - 1  # the count of a batch norm is a number, made at once
    for name, tensor in deferred.items():
        assert tensor.untyped_storage().device.type == "meta"
        assert torch.equal(reference_to(tensor).of(storages), usual[name]), name


def test_only_the_operations_that_a_tensor_needs_are_replayed() -> None:
    with Recorder() as recorder:
        first, second = nn.Linear(2, 2, bias=False), nn.Linear(3, 3, bias=False)
    needed = recorder.needed_for([reference_to(second.weight).key])
    assert len(needed) == 2 and len(recorder.tape) == 4
    storages: dict[Key, torch.UntypedStorage] = {}
    recorder.replay(needed, storages)
    assert list(storages) == [reference_to(second.weight).key]
    assert reference_to(first.weight).key not in storages


def test_a_tensor_without_memory_says_that_it_is_on_the_cpu_while_it_is_recorded() -> None:
    with Recorder():
        weight = nn.Linear(2, 2).weight
        said = (weight.device, weight.is_meta, weight.is_cpu)
    assert said == (torch.device("cpu"), False, True)
    assert weight.is_meta


@pytest.mark.parametrize(
    "work",
    [
        lambda: nn.init.normal_(torch.empty(3), generator=torch.Generator()),
        lambda: torch.ones(2).sum().item(),
        lambda: torch.tensor([1.0, 2.0]).add_(torch.ones(2)),
        lambda: torch.ones(2).numpy(),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
    ],
)
def test_what_needs_a_value_at_once_is_refused(work: Callable[[], object]) -> None:
    with pytest.raises((CannotDefer, RuntimeError, TypeError)), Recorder():
        work()
