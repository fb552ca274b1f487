"""The layers of a decoder-only transformer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from tasks.rotary import RotaryEmbedding
from tasks.transformer import SelfAttention, TokenEmbedding, TransformerBlock, decoder

SIZES: dict[str, Any] = {"depth": 3, "width": 8, "heads": 2, "context": 6}

with_and_without_rope = pytest.mark.parametrize("rope", [False, True], ids=["learned positions", "RoPE"])


def model(**settings: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*decoder(11, **SIZES | settings))


def symbols(rows: int, steps: int) -> Tensor:
    return torch.randint(0, 11, (rows, steps), generator=torch.Generator().manual_seed(1))


@with_and_without_rope
@pytest.mark.parametrize("steps", [1, 4, 6])
def test_every_layer_returns_a_row_per_position(rope: bool, steps: int) -> None:
    layers = decoder(11, **SIZES, rope=rope)
    assert len(layers) == 5
    x, shapes = symbols(3, steps), []
    for layer in layers:
        x = layer(x)
        shapes.append(tuple(x.shape))
    assert shapes == [(3, steps, 8)] * 4 + [(3, steps, 11)]


@with_and_without_rope
def test_an_output_depends_on_the_symbols_up_to_its_position_alone(rope: bool) -> None:
    network, x = model(rope=rope), symbols(1, 6)
    before = network(x)
    for position in range(6):
        other = x.clone()
        other[0, position] = (x[0, position] + 1) % 11
        moved = (network(other) - before).abs().amax(-1)[0]
        assert moved[:position].lt(1e-6).all() and moved[position:].gt(1e-6).all(), position


@with_and_without_rope
def test_the_order_of_earlier_symbols_matters(rope: bool) -> None:
    network = model(rope=rope)
    first, second = network(torch.tensor([[1, 2, 3, 4]])), network(torch.tensor([[3, 2, 1, 4]]))
    assert (first[0, -1] - second[0, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("rotary", [None, RotaryEmbedding(4, 6)], ids=["plain", "RoPE"])
def test_attention_is_the_softmax_of_scaled_products(rotary: RotaryEmbedding | None) -> None:
    torch.manual_seed(0)
    attention, h = SelfAttention(8, 2, rotary), torch.randn(3, 5, 8)
    q, k, v = (
        part.view(3, 5, 2, 4).transpose(1, 2) for part in attention.queries_keys_values(h).chunk(3, -1)
    )
    if rotary is not None:
        q, k = rotary(q), rotary(k)
    products = q @ k.transpose(-1, -2) / 2
    products = products.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), float("-inf"))
    wanted = attention.output((products.softmax(-1) @ v).transpose(1, 2).reshape(3, 5, 8))
    torch.testing.assert_close(attention(h), wanted)


def test_rope_has_no_weights_for_positions() -> None:
    names = set(model().state_dict()) - set(model(rope=True).state_dict())
    assert names == {"0.positions.weight"}


def test_the_branches_of_a_deep_network_start_scaled_down() -> None:
    torch.manual_seed(0)
    whole = TransformerBlock(8, 2)
    torch.manual_seed(0)
    scaled = TransformerBlock(8, 2, scale=0.5)
    for name, parameter in whole.named_parameters():
        factor = 0.5 if name in ("attention.output.weight", "mlp.2.weight") else 1.0
        torch.testing.assert_close(scaled.get_parameter(name), factor * parameter, msg=name)


def test_more_symbols_than_the_context_are_refused() -> None:
    with pytest.raises(UserError, match=r"7 positions exceeds the context of the model \(context=6\)"):
        TokenEmbedding(11, 8, 6)(symbols(2, 7))
