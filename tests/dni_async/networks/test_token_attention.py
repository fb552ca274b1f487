"""The token head behind a small causal attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.networks import TokenAttentionSG
from dni_async.networks.factory import build_network, resolve
from dni_async.networks.settings import SGConfig
from dni_async.networks.token_attention import CausalAttention

WIDTH, CLASSES, STEPS = 6, 4, 5


def network() -> TokenAttentionSG:
    torch.manual_seed(0)
    return TokenAttentionSG(WIDTH, CLASSES, 8).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(3, STEPS, WIDTH, generator=generator, dtype=torch.float64)
    return h, torch.randint(CLASSES, (3, STEPS), generator=generator)


def test_attention_written_out_equals_the_fused_one() -> None:
    torch.manual_seed(0)
    attention, h = CausalAttention(WIDTH, 8), torch.randn(3, STEPS, WIDTH)
    split = attention.queries_keys_values(attention.norm(h)).view(3, STEPS, 3, 2, 4)
    mixed = F.scaled_dot_product_attention(*split.permute(2, 0, 3, 1, 4), is_causal=True)
    wanted = h + attention.output(mixed.transpose(1, 2).reshape(3, STEPS, 8))
    torch.testing.assert_close(attention(h), wanted)


def test_a_prediction_depends_on_labels_from_its_position_on() -> None:
    sg, (h, y) = network(), batch()
    before = sg.synthesize(h, y)
    for position in range(STEPS):
        other = y.clone()
        other[:, position] = (y[:, position] + 1) % CLASSES
        moved = (sg.synthesize(h, other) - before).abs().amax(-1)
        assert moved[:, : position + 1].gt(1e-9).all() and moved[:, position + 1 :].lt(1e-12).all(), position


def test_the_prediction_is_the_gradient_of_the_heads_loss_of_each_sample() -> None:
    sg, (h, y) = network(), batch()
    leaf = h.clone().requires_grad_()
    F.cross_entropy(sg.head(leaf).flatten(0, 1), y.flatten()).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(sg.synthesize(h, y), 3 * leaf.grad)


@pytest.mark.parametrize(("asked", "width"), [(None, 16), (6, 6)])
def test_the_width_of_the_attention_is_a_setting(asked: int | None, width: int) -> None:
    config = resolve(SGConfig(kind="token-attention", hidden=asked), (STEPS, WIDTH), 2, True, classes=True)
    sg = build_network(config, (STEPS, WIDTH), CLASSES)
    assert isinstance(sg, TokenAttentionSG) and sg.head[0].output.in_features == width


def test_an_odd_width_of_the_attention_is_refused() -> None:
    with pytest.raises(UserError, match=r"sg.hidden is 7; token-attention needs an even width"):
        TokenAttentionSG(WIDTH, CLASSES, 7)
