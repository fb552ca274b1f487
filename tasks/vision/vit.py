"""A vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) on CIFAR-10 or MNIST.

image (B, C, H, W) ─► PatchEmbedding (B, T, D) ─► TransformerBlock ─► ... ─► LayerNorm, mean, Linear
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from typing_extensions import override

from dni_async.checks import at_least
from dni_async.errors import UserError
from tasks.base import Task
from tasks.transformer import TransformerBlock, check_heads
from tasks.vision.cifar import CifarCnn
from tasks.vision.mnist import MnistCnn

SHAPES = {"cifar": (3, 32), "mnist": (1, 28)}
"""Channels and side of the images of each data set."""
SHIFT = 4
"""Most pixels that an augmented image moves, as in most work on CIFAR-10."""


class Vit(Task):
    """Images in square patches, each of which is a position of a transformer without causal mask."""

    name = "vit"
    classes = 10
    defaults: ClassVar[Mapping[str, Any]] = {
        "batch_size": 64,
        "optimizer": "adamw",
        "optimizer_args": ("betas=0.9,0.99", "weight_decay=0.1"),
        "param_groups": (
            "*.bias:weight_decay=0",
            "LayerNorm.*:weight_decay=0",
            "PatchEmbedding.positions:weight_decay=0",
        ),
        "lr": 2e-3,
        "schedule": "cosine",
        "warmup": 0.1,
    }

    def __init__(
        self,
        *,
        images: str = "cifar",
        depth: int = 4,
        width: int = 64,
        heads: int = 4,
        patch: int = 4,
        augment: bool = False,
        subset: int = 0,
        validation: int = 0,
    ) -> None:
        """Images: cifar or mnist; depth: blocks; patch: pixels of its side; augment: train on images that
        are moved by up to 4 pixels and flipped at random (cifar alone is flipped); subset: first training
        images to use, 0 for all; validation: last ones to hold out for --patience."""
        if images not in SHAPES:
            raise UserError(f"images is {images}; use one of {', '.join(SHAPES)}")
        self.images, self.augment = images, augment
        self.depth, self.width = at_least(1, depth=depth), at_least(1, width=width)
        self.heads, self.patch = at_least(1, heads=heads), at_least(1, patch=patch)
        check_heads(width, heads)
        if SHAPES[images][1] % patch:
            raise UserError(f"patch={patch} does not divide the {SHAPES[images][1]} pixels of {images}")
        source = CifarCnn if images == "cifar" else MnistCnn
        self.source: Task = source(subset=subset, validation=validation)

    @override
    def layers(self) -> list[nn.Module]:
        """Return embedding, `depth` blocks, and norm, mean and output layer: depth + 2 layers."""
        channels, side = SHAPES[self.images]
        embedding: nn.Module = PatchEmbedding(channels, side, self.patch, self.width)
        if self.augment:
            embedding = nn.Sequential(RandomShift(flip=self.images == "cifar"), embedding)
        scale = (2 * self.depth) ** -0.5
        blocks = [
            TransformerBlock(self.width, self.heads, scale=scale, causal=False) for _ in range(self.depth)
        ]
        return [embedding, *blocks, PooledClassifier(self.width, 10)]

    @override
    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        sets = self.source.data(root)
        self.note = self.source.note
        return sets  # type: ignore[return-value]

    @override
    def validation(self, root: Path | None) -> TensorDataset | None:
        return self.source.validation(root)  # type: ignore[return-value]


class RandomShift(nn.Module):
    """Moves each image (B, C, H, W) by up to `SHIFT` pixels, and flips half of them, in training only."""

    def __init__(self, *, flip: bool) -> None:
        super().__init__()
        self.flip = flip

    @override
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        batch, _, height, width = x.shape
        rows, columns = (
            torch.randint(2 * SHIFT + 1, (batch, 1), device=x.device) + torch.arange(n, device=x.device)
            for n in (height, width)
        )
        if self.flip:
            mirrored = torch.rand(batch, 1, device=x.device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = F.pad(x, (SHIFT,) * 4)
        images = torch.arange(batch, device=x.device)[:, None, None]
        return padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class PatchEmbedding(nn.Module):
    """Maps images (B, C, H, H) to (B, T, D): a linear map of each patch, and a learned position."""

    def __init__(self, channels: int, side: int, patch: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty((side // patch) ** 2, width).normal_(std=0.1))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).flatten(2).transpose(1, 2) + self.positions


class PooledClassifier(nn.Module):
    """Maps (B, T, D) to logits (B, classes): LayerNorm, mean over the positions, Linear."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, classes)

    @override
    def forward(self, h: Tensor) -> Tensor:
        logits: Tensor = self.output(self.norm(h).mean(1))
        return logits
