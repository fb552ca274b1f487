"""CIFAR-10 with a convolutional network whose layers cost about the same, so that it cuts evenly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from typing_extensions import override

from dni_async.checks import at_least
from dni_async.errors import UserError
from tasks.base import Task
from tasks.data_files import damaged, data_places, find_folder, read_data
from tasks.splits import split_off

FOLDER = "cifar-10-batches-bin"
TRAINING = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = "test_batch.bin"
RECORD = 1 + 3 * 32 * 32
"""Bytes of one image: its label, then the red, green and blue planes, row by row."""
LARGEST = 100_000 * RECORD
"""Bytes of the largest file that is read; the official ones have 10,000 images."""


class CifarCnn(Task):
    """CIFAR-10's images (B, 3, 32, 32) and a CNN of 5x5 convolutions with batch norm.

    It trains on the training files that exist, one to five of 10,000 images each; `note` says when some are
    missing. There is no download: the files are 170 MB.
    """

    name = "cifar-cnn"
    classes = 10

    def __init__(
        self,
        filters: tuple[int, ...] = (64, 64, 64, 64),
        pools: tuple[int, ...] = (1,),
        kernel: int = 5,
        subset: int = 0,
        validation: int = 0,
    ) -> None:
        """Filters: channels of each convolution; pools: the convolutions that halve the image; kernel:
        side of the filters; subset: first training images to use, 0 for all; validation: last ones to hold
        out for --patience."""
        for count in filters or (0,):
            at_least(1, filters=count)
        if any(not 1 <= pool <= len(filters) for pool in pools) or len(set(pools)) < len(pools):
            given = ",".join(map(str, pools))
            raise UserError(f"pools is {given}; name convolutions 1 to {len(filters)}, each once")
        if len(pools) > 5:
            raise UserError(f"pools names {len(pools)} convolutions; 32 pixels can be halved five times")
        self.filters, self.pools = filters, pools
        self.kernel, self.subset = at_least(1, kernel=kernel), at_least(0, subset=subset)
        self.split_off = at_least(0, validation=validation)

    @override
    def layers(self) -> list[nn.Module]:
        """Return one layer per convolution (Conv, BatchNorm, ReLU, pool), then Linear to 10.

        ```
        layer    1         2    3    4        by default
        side     32 → 16   16   16   16
        ```
        """
        layers: list[nn.Module] = []
        channels, side = 3, 32
        for number, filters in enumerate(self.filters, 1):
            conv = nn.Conv2d(channels, filters, self.kernel, padding="same")
            parts = [conv, nn.BatchNorm2d(filters), nn.ReLU()]
            if number in self.pools:
                parts.append(nn.MaxPool2d(2))
                side //= 2
            layers.append(nn.Sequential(*parts))
            channels = filters
        return [*layers, nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, 10))]

    @override
    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        """Return (training set, test set) of x (3, 32, 32) float32, normalised per channel, and y int64."""
        folder = _locate(root)
        (x, y), _ = split_off(self.split_off, *self._training(folder))
        if self.subset > len(x):
            raise UserError(f"more than there is (subset={self.subset}): give {len(x)} or less, 0 for all")
        count = self.subset or len(x)
        return _dataset(x[:count], y[:count]), _dataset(*read_batch(folder / TEST))

    @override
    def validation(self, root: Path | None) -> TensorDataset | None:
        if not self.split_off:
            return None
        _, (x, y) = split_off(self.split_off, *self._training(_locate(root)))
        return _dataset(x, y)

    def _training(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        present = [name for name in TRAINING if (folder / name).exists()]
        if not present:
            raise UserError(f"no training file of CIFAR-10 ({TRAINING[0]} ...) in {folder}: add them")
        files = [read_batch(folder / name) for name in present]
        x, y = (np.concatenate(parts) for parts in zip(*files, strict=True))
        missing = len(TRAINING) - len(present)
        self.note = (
            f"CIFAR-10 lacks {missing} of its 5 training files: {len(x):,} images" if missing else None
        )
        return x, y


def _locate(root: Path | None) -> Path:
    """Return the folder with the files: below or at `root`, or in the cache."""
    folder = find_folder(root, FOLDER, TEST)
    if folder is None:
        places = ", ".join(map(str, data_places(root, FOLDER)))
        raise UserError(f"CIFAR-10 is nowhere ({TEST} in {places}): unpack its binary version there")
    return folder


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 3, 32, 32) uint8 images and (N,) int64 labels of one binary file.

    Raises:
        UserError: the file is not a whole number of records, or a label is not in 0..9.
    """
    content = np.frombuffer(read_data(path, LARGEST), np.uint8)
    if not len(content) or len(content) % RECORD:
        raise damaged(path, f"{len(content)} bytes, which are no images of {RECORD}")
    records = content.reshape(-1, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise damaged(path, f"label {labels.max()} outside 0..9")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def _dataset(x: np.ndarray, y: np.ndarray) -> TensorDataset:
    pixels = torch.from_numpy(x.astype(np.float32)).div_(255)
    return TensorDataset(pixels.sub_(_MEAN).div_(_STD), torch.from_numpy(y))


_MEAN = Tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
_STD = Tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)
"""Of the training pixels, per channel."""
