"""Layers in fp32, bf16 and fp16."""

import copy

import pytest
import torch
from torch import nn

from workers.runtime.precision import head_precision, in_precision, sequential

CPU = torch.device("cpu")


def layers():
    return [nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)]


def test_fp32_changes_nothing():
    parts, x = layers(), torch.randn(5, 4)
    ours, plain = sequential(parts, "fp32"), nn.Sequential(*parts)
    assert torch.equal(ours(x), plain(x)) and repr(ours) == repr(plain)
    assert in_precision(torch.mm, "fp32", CPU) is torch.mm


def test_bf16_computes_what_autocast_does_and_keeps_weights_and_gradients_in_fp32():
    ours = sequential(layers(), "bf16")
    plain = nn.Sequential(*copy.deepcopy(list(ours)))
    x = torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = plain(x)
    output = ours(x)
    assert output.dtype is torch.bfloat16 and torch.equal(output, wanted)
    for h in (output, wanted):
        h.float().square().sum().backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert a.dtype is a.grad.dtype is torch.float32
        assert torch.equal(a.grad, b.grad)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("derive", [copy.deepcopy, lambda module: module[:1], lambda module: module[1:]])
def test_copies_and_slices_keep_the_precision(derive):
    derived = derive(sequential([nn.Linear(3, 3), nn.Linear(3, 3)], "bf16"))
    assert derived(torch.randn(2, 3)).dtype is torch.bfloat16


def test_a_function_works_in_bf16_inside_only():
    a = torch.randn(3, 3)
    assert in_precision(torch.mm, "bf16", CPU)(a, a).dtype is torch.bfloat16
    assert torch.mm(a, a).dtype is torch.float32


def test_fp16_computes_under_autocast_and_returns_fp32():
    ours = sequential(layers(), "fp16")
    x = torch.randn(5, 4)
    with torch.autocast("cpu", torch.float16):
        wanted = nn.Sequential(*copy.deepcopy(list(ours)))(x)
    output = ours(x)
    assert (output.dtype, wanted.dtype) == (torch.float32, torch.float16) and torch.equal(
        output, wanted.float()
    )
    output.sum().backward()
    assert all(p.grad.dtype is torch.float32 for p in ours.parameters())
    assert in_precision(torch.mm, "fp16", CPU) is torch.mm and head_precision("fp16") == "fp32"


def test_every_float_of_a_tree_is_returned_in_fp32():
    class Two(nn.Module):
        def forward(self, x):
            return {"h": x @ x, "ids": x.long()}

    output = sequential([Two()], "fp16")(torch.ones(2, 2))
    assert (output["h"].dtype, output["ids"].dtype) == (torch.float32, torch.int64)
