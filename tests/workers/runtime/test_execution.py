"""Layers in fp32 and bf16."""

import copy

import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from workers.runtime.execution import compile_ahead, in_precision, sequential

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


class TestCompileAhead:
    """With a backend that counts graphs and leaves them as they are."""

    @pytest.fixture
    def graphs(self):
        torch._dynamo.reset()
        return []

    @pytest.fixture
    def compiled(self, graphs):
        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        def make(*parts, trains=True, gradients=(True,)):
            module = sequential(parts, "fp32")
            compile_ahead(module, torch.ones(5, 4), trains=trains, gradients=gradients, backend=backend)
            return module

        return make

    def test_what_was_tried_out_leaves_no_trace(self, compiled):
        parts = [nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)]
        before, torch_before = copy.deepcopy(nn.Sequential(*parts).state_dict()), torch.get_rng_state()
        module = compiled(*parts)
        assert module.training and all(parameter.grad is None for parameter in module.parameters())
        after = module.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert torch.equal(torch.get_rng_state(), torch_before)

    @pytest.mark.parametrize("trains", [True, False])
    def test_nothing_is_compiled_in_training_whatever_the_batch(self, compiled, graphs, trains):
        module = compiled(nn.Linear(4, 3), nn.BatchNorm1d(3), trains=trains, gradients=(True, False))
        ahead = len(graphs)
        for rows in (5, 3, 7):
            for needs_grad in (True, False):
                with torch.set_grad_enabled(trains):
                    module.train()(torch.randn(rows, 4, requires_grad=needs_grad))
            with torch.no_grad():
                module.eval()(torch.randn(rows, 4))
        assert len(graphs) == ahead > 0

    def test_it_computes_the_same(self, compiled):
        parts = layers()
        plain, x = copy.deepcopy(nn.Sequential(*parts)), torch.randn(6, 4)
        assert torch.equal(compiled(*parts)(x), plain(x))

    def test_a_first_layer_may_work_in_place(self, compiled):
        compiled(nn.ReLU(inplace=True), nn.Linear(4, 3))

    def test_copies_are_not_compiled(self, compiled, graphs):
        module = copy.deepcopy(compiled(nn.Linear(4, 3)))
        ahead = len(graphs)
        module(torch.randn(2, 4))
        assert len(graphs) == ahead

    def test_a_compiler_that_fails_is_bad_input(self, graphs):
        def backend(graph, inputs):
            raise RuntimeError("no compiler\nhere")

        with pytest.raises(
            UserError, match=r"^torch.compile does not work here \(.*\); leave --compile out$"
        ):
            compile_ahead(
                sequential(layers(), "fp32"),
                torch.ones(5, 4),
                trains=True,
                gradients=(True,),
                backend=backend,
            )
