from __future__ import annotations

import pytest
import torch

from dni_async.networks import AuxiliaryHead, HeadSG


@pytest.mark.parametrize(
    ("shape", "output", "parameters"),
    [
        ((14,), (5,), 14 * 8 + 8 + 8 * 5 + 5),
        ((14,), (3, 2), 14 * 8 + 8 + 8 * 6 + 6),  # a regression on a table
        ((7, 14), (7, 5), 14 * 8 + 8 + 8 * 5 + 5),  # the same for every time step
        ((7, 14), (5,), 7 * 14 * 8 + 8 + 8 * 5 + 5),  # one answer for the sequence
        ((14,), (), 14 * 8 + 8 + 8 + 1),
        ((3, 9, 9), (5,), 3 * 8 * 9 + 16 + 4 * 8 * 5 + 5),
        ((3, 4, 4), (5,), 3 * 8 * 9 + 16 + 4 * 8 * 5 + 5),
        ((3, 9, 9), (1, 6, 6), 3 * 8 * 9 + 16 + 4 * 8 * 36 + 36),
    ],
)
def test_the_auxiliary_head_maps_a_stages_output_to_the_networks_output(
    shape: tuple[int, ...], output: tuple[int, ...], parameters: int
) -> None:
    head = AuxiliaryHead(shape, output, 8)
    for rows in (2, 6):
        assert head(torch.randn(rows, *shape)).shape == (rows, *output)
    assert sum(p.numel() for p in head.parameters()) == parameters


def test_every_row_and_time_step_is_on_its_own() -> None:
    head, h = AuxiliaryHead((7, 14), (7, 5), 8), torch.randn(6, 7, 14)
    torch.testing.assert_close(head(h)[2:3, 4:5], head(h[2:3, 4:5].expand(1, 7, -1))[:, :1])


def test_images_get_the_classifier_of_the_head_sg_network() -> None:
    head, sg = AuxiliaryHead((3, 9, 9), (5,), 6), HeadSG(3, 5, 9)
    assert {k: v.shape for k, v in head.layers.state_dict().items()} == {
        k: v.shape for k, v in sg.head.state_dict().items()
    }
    sg.head.load_state_dict(head.layers.state_dict())
    h = torch.randn(4, 3, 9, 9)
    assert torch.equal(head(h), sg.head(h))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_activations_of_another_type_get_a_gradient_of_their_type(dtype: torch.dtype) -> None:
    head = AuxiliaryHead((6,), (3,), 8)
    h = torch.randn(4, 6, dtype=dtype, requires_grad=True)
    output = head(h)
    output.sum().backward()
    assert output.dtype == torch.float32
    assert h.grad is not None and h.grad.dtype == dtype
    torch.testing.assert_close(output, head(h.detach().float()))
