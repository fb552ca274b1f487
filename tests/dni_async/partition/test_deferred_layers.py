from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.partition.deferred_layers import DeferredLayers


def network() -> list[nn.Module]:
    return [
        nn.Linear(4, 6),
        nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)),
        nn.Sequential(nn.ReLU(), nn.Dropout(0.1)),
        nn.LSTM(6, 6),
    ]


def tied() -> list[nn.Module]:
    first, last = nn.Embedding(5, 4), nn.Linear(4, 5)
    last.weight = first.weight
    return [first, nn.Linear(4, 4), last]


def with_common_noise() -> list[nn.Module]:
    noise = torch.randn(3, 3)
    layers = [nn.Linear(3, 3) for _ in range(3)]
    with torch.no_grad():
        for layer in layers[1:]:
            layer.weight.add_(noise)
    return list(layers)


def own_generator() -> list[nn.Module]:
    generator = torch.Generator().manual_seed(7)
    layers = [nn.Linear(3, 3) for _ in range(2)]
    for layer in layers:
        nn.init.normal_(layer.weight, generator=generator)
    return list(layers)


def own_seed() -> list[nn.Module]:
    torch.manual_seed(99)
    return [nn.Linear(3, 3), nn.Linear(3, 3)]


def normalised_by_hand() -> list[nn.Module]:
    layers = [nn.Linear(3, 3), nn.Linear(3, 3)]
    for layer in layers:
        layer.weight.data /= layer.weight.data.norm().item()
    return list(layers)


DEFERRED = [network, tied, with_common_noise]
WHOLE = [own_generator, own_seed, normalised_by_hand]


def state(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("make", [*DEFERRED, *WHOLE])
def test_initial_values_depend_on_the_seed_and_not_on_what_is_built(
    make: Callable[[], list[nn.Module]],
) -> None:
    whole = DeferredLayers(make, 5)
    assert whole.deferred == (make in DEFERRED)
    states = list(map(state, whole.build(0, len(whole))))
    for first in range(len(states)):
        for end in range(first + 1, len(states) + 1):
            for i, layer in enumerate(DeferredLayers(make, 5).build(first, end), first):
                assert_same(state(layer), states[i])
    if make is not own_seed:
        other = [
            tensor for layer in DeferredLayers(make, 6).build(0, len(states)) for tensor in layer.parameters()
        ]
        assert not all(
            torch.equal(a, b) for a, b in zip(other, nn.ModuleList(whole.structure).parameters(), strict=True)
        )


def test_a_layer_has_memory_if_it_was_built_or_while_it_is_iterated_over() -> None:
    layers = DeferredLayers(network, 0)
    built = layers.build(0, 1)
    kept = state(built[0])
    before = None
    for i, layer in enumerate(layers):
        assert not any(tensor.is_meta for tensor in layer.state_dict().values())
        layer(torch.zeros(2, 4 if i == 0 else 6))
        assert before is None or all(tensor.is_meta for tensor in before.parameters())
        before = layer if i else None
    assert_same(state(layers.structure[0]), kept)
    assert all(tensor.is_meta for tensor in layers.structure[3].parameters())


def test_layers_without_memory_run_on_the_meta_device() -> None:
    layers = DeferredLayers(network, 0)
    assert layers.structure[1](torch.zeros(2, 6, device="meta")).shape == (2, 6)


def test_layers_that_share_a_weight_share_it_when_they_are_built() -> None:
    first, _, last = DeferredLayers(tied, 0).build(0, 3)
    assert isinstance(first, nn.Embedding) and isinstance(last, nn.Linear)
    assert first.weight is last.weight and first.weight.requires_grad


def test_a_shared_weight_may_lie_beside_one_that_was_copied_from_a_layer_that_is_not_built() -> None:
    def layers() -> list[nn.Module]:
        a, b, c = (nn.Linear(3, 3) for _ in range(3))
        c.weight = b.weight
        with torch.no_grad():
            b.bias.copy_(a.bias)
        return [a, b, c]

    whole = DeferredLayers(layers, 1).build(0, 3)
    [last] = DeferredLayers(layers, 1).build(2, 3)
    assert torch.equal(last.weight, whole[2].weight) and torch.equal(last.bias, whole[2].bias)


def test_two_layers_of_one_kind_start_differently() -> None:
    layers = DeferredLayers(lambda: [nn.Linear(3, 3), nn.Linear(3, 3)], 0).build(0, 2)
    assert not torch.equal(layers[0].weight, layers[1].weight)  # type: ignore[arg-type]


def test_layers_that_exist_before_are_those_that_are_built() -> None:
    given = network()
    before = list(map(state, given))
    layers = DeferredLayers(lambda: given, 0)
    for layer, mine, values in zip(layers.build(0, 4), given, before, strict=True):
        assert layer is mine
        assert_same(state(layer), values)


def test_the_random_numbers_of_the_process_stay_as_they_are() -> None:
    torch.manual_seed(4)
    before = torch.get_rng_state()
    for make in (network, own_seed):
        DeferredLayers(make, 1).build(0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_tensors_that_are_attributes_get_their_values() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask = torch.ones(3)
            self.more = {"two": [torch.full((2,), 2.0)]}

        def forward(self, x: Tensor) -> Tensor:
            return x * self.mask + self.more["two"][0].sum()

    layers = DeferredLayers(lambda: [Masked()], 0)
    assert layers.deferred
    assert torch.equal(layers.build(0, 1)[0](torch.ones(3)), torch.full((3,), 5.0))


def test_frozen_weights_and_attributes_of_parameters_stay() -> None:
    def make() -> list[nn.Module]:
        layer = nn.Linear(2, 2)
        layer.weight.requires_grad_(False)
        layer.bias.label = "bias"  # type: ignore[attr-defined]
        return [layer]

    (layer,) = DeferredLayers(make, 0).build(0, 1)
    assert not layer.weight.requires_grad and layer.bias.requires_grad
    assert layer.bias.label == "bias"  # type: ignore[union-attr]


def test_an_error_of_the_task_is_raised_as_it_is() -> None:
    def bad() -> list[nn.Module]:
        raise UserError("width is -1")

    def worse() -> list[nn.Module]:
        raise KeyError("width")

    with pytest.raises(UserError, match="width is -1"):
        DeferredLayers(bad, 0)
    with pytest.raises(KeyError, match="width"):
        DeferredLayers(worse, 0)
