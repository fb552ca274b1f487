"""More training images from few: each one again, shifted, turned and scaled a little."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT = 0.1
"""Largest shift in each direction, as a share of the image's side."""
DEGREES = 12.0
"""Largest rotation, either way."""
SCALE = 0.12
"""Largest share by which an image grows or shrinks."""


def distorted_copies(images: Tensor, copies: int, seed: int = 0) -> Tensor:
    """Return (copies * N, C, H, W): the N images as they are, then `copies` - 1 times distorted.

    Every copy of every image is shifted, turned and scaled by amounts of its own, drawn from `seed`; pixels
    from outside the image are zero. The result is the same in every process.

    Args:
        images: (N, C, H, W), with a background of zero.
    """
    draw = torch.Generator().manual_seed(seed)
    made = [images]
    for _ in range(copies - 1):
        amounts = 2 * torch.rand(len(images), 4, generator=draw) - 1  # from -1 to 1
        angle, scale = amounts[:, 0] * math.radians(DEGREES), 1 + SCALE * amounts[:, 1]
        cosine, sine = angle.cos() / scale, angle.sin() / scale
        shift = 2 * SHIFT * amounts[:, 2:]  # the coordinates of an image go from -1 to 1
        rows = [torch.stack([cosine, -sine, shift[:, 0]], 1), torch.stack([sine, cosine, shift[:, 1]], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        made.append(F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    return torch.cat(made)
