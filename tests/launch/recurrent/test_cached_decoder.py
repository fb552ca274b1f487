"""A GPT symbol by symbol: with the keys and values of earlier positions, and without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from launch.recurrent.cached_decoder import CachedDecoder
from tasks.transformer import decoder

SYMBOLS, CONTEXT = 11, 8

with_and_without_rope = pytest.mark.parametrize("rope", [False, True], ids=["learned positions", "RoPE"])


def model(rope: bool, context: int = CONTEXT) -> nn.Sequential:
    torch.manual_seed(0)
    layers = decoder(SYMBOLS, depth=3, width=16, heads=2, context=context, rope=rope)
    return nn.Sequential(*layers).double().eval()


def window(seen: Tensor, context: int = CONTEXT) -> Tensor:
    """The symbols that a decoder sees which got those of (1, T) one by one."""
    width = 0
    for _ in range(seen.shape[1]):
        width = width + 1 if width < context else max(1, context // 2)
    return seen[:, -width:]


@with_and_without_rope
@pytest.mark.parametrize("context", [1, 2, 7, CONTEXT])
@torch.no_grad()
def test_logits_equal_those_of_the_whole_window(rope: bool, context: int) -> None:
    network = model(rope, context)
    cached = CachedDecoder(network, context)
    text = torch.randint(SYMBOLS, (1, 30), generator=torch.Generator().manual_seed(1))
    for end in range(1, 31):
        wanted = network(window(text[:, :end], context))[0, -1]
        torch.testing.assert_close(cached(text[:, end - 1 : end]), wanted)


@with_and_without_rope
@torch.no_grad()
def test_a_prompt_at_once_gives_what_its_symbols_one_by_one_do(rope: bool) -> None:
    network, prompt = model(rope), torch.tensor([[1, 2, 3, 4, 5]])
    one_by_one = CachedDecoder(network, CONTEXT)
    apart = [one_by_one(prompt[:, i : i + 1]) for i in range(5)][-1]
    torch.testing.assert_close(CachedDecoder(network, CONTEXT)(prompt), apart)


@with_and_without_rope
@pytest.mark.parametrize("greedy", [True, False])
@torch.no_grad()
def test_the_text_is_the_same_to_the_symbol_as_without_the_cache(rope: bool, greedy: bool) -> None:
    network = model(rope)
    texts = []
    for cached in (True, False):
        decode = CachedDecoder(network, CONTEXT)
        generator = torch.Generator().manual_seed(2)
        text = torch.tensor([[3]])
        for _ in range(40):
            logits = decode(text[:, -1:]) if cached else network(window(text))[0, -1]
            drawn = torch.multinomial(logits.softmax(0), 1, generator=generator)
            text = torch.cat([text, (logits.argmax(0, keepdim=True) if greedy else drawn)[None]], 1)
        texts.append(text)
    assert torch.equal(*texts)


@torch.no_grad()
def test_only_new_positions_are_computed_until_the_context_is_full() -> None:
    network, computed = model(rope=False), []
    network[1].mlp.register_forward_hook(lambda _, inputs, __: computed.append(inputs[0].shape[1]))
    decode = CachedDecoder(network, CONTEXT)
    for symbol in range(14):
        decode(torch.tensor([[symbol % SYMBOLS]]))
    assert computed == [1] * 8 + [4] + [1] * 4 + [4]
