import copy

import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from workers.runtime.compilation import compile_ahead
from workers.runtime.precision import sequential


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

    def test_compiling_ahead_leaves_no_trace_in_weights_and_random_state(self, compiled):
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

    def test_compiled_layers_compute_the_same(self, compiled):
        parts = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)]
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
                sequential([nn.Linear(4, 3), nn.ReLU()], "fp32"),
                torch.ones(5, 4),
                trains=True,
                gradients=(True,),
                backend=backend,
            )
