"""What a device does once, before the clock starts: a GPU loads its libraries when they are first used."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from workers.runtime.cuda import accelerator_of


def warm_up(device: torch.device, timeout: float) -> None:
    """Have a GPU load what training needs: products, convolutions, a fused optimizer, copies both ways.

    Random numbers are afterwards as they were. Raises TransportTimeout after `timeout` seconds.
    """
    if accelerator := accelerator_of(device):
        rehearse(device)
        accelerator.synchronize(timeout)


def rehearse(device: torch.device) -> None:
    """Do a little of everything on a device."""
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.ones(64, 64, device=device, dtype=dtype, requires_grad=True)
        product = F.relu(weight @ weight)
        images = product.view(1, 64, 8, 8)
        filtered = F.conv2d(images, torch.ones(8, 64, 3, 3, device=device, dtype=dtype))
        scores, y = filtered.flatten(1).float(), torch.zeros(1, dtype=torch.int64, device=device)
        F.cross_entropy(scores, y).backward()
    parameter = torch.ones(64, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], fused=True)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    parameter.detach().cpu()
