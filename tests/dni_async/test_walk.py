from __future__ import annotations

import pytest
import torch
from torch import nn

from dni_async.walk import walk
from tests.support.trees import NETWORKS, assert_equal, batches_of


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_walked_as_if_cut_between_all_of_them(name: str) -> None:
    layers, ((inputs, _),) = NETWORKS[name][0](), batches_of(name, [4])
    wanted, expected = inputs, nn.Sequential(*layers)(inputs)
    for i, (boundary, h, extras) in enumerate(walk(layers, inputs)):
        assert len(h) == 4 and not h.requires_grad
        if i:
            wanted = layers[i - 1](wanted)
            assert boundary.name == f"layer {i - 1} ({type(layers[i - 1]).__name__})"
        assert_equal(boundary.unpack(h, extras), wanted)
    assert torch.equal(wanted, expected)


def test_the_skip_of_the_batch_itself_gets_no_gradient_and_the_skip_of_a_layer_does() -> None:
    layers, ((inputs, _),) = NETWORKS["skips"][0](), batches_of("skips", [4])
    roles = [[leaf.role for leaf in boundary.leaves] for boundary, _, _ in walk(layers, inputs)]
    assert roles == [["h"], ["h", "extra"], ["h", "h", "extra"], ["h", "h", "extra", "constant"], ["h"]]
