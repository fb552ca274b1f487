"""The paper's two MNIST networks: fully connected and convolutional (arXiv 1608.05343)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from typing_extensions import override

from dni_async.checks import at_least
from dni_async.errors import UserError
from tasks.base import Task
from tasks.data_files import cache_folder, locate
from tasks.splits import split_off
from tasks.vision.digits import COPIES, fully_connected, many_digits
from tasks.vision.download import DownloadError, download
from tasks.vision.idx_files import normalise, read_labelled

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

_Images = tuple[Tensor, Tensor]


class Mnist(Task):
    """MNIST's images in the shape that the network takes, or scikit-learn's digits when there is no MNIST.

    The files are looked for in the data folder, then in the cache, and else downloaded into the cache. When
    that fails, digits replace them, and `note` says so. A damaged file is an error and never replaced.
    """

    classes: int | None = 10
    input_shape: ClassVar[tuple[int, ...]]

    def __init__(self, subset: int, validation: int = 0, tested: int = 0) -> None:
        self.subset, self.split_off = at_least(0, subset=subset), at_least(0, validation=validation)
        self.tested = at_least(0, tested=tested)

    def fetch(self, folder: Path) -> None:
        """Put MNIST's files into `folder`. Raises `DownloadError`. Tests replace this method."""
        download(folder)

    @override
    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        """Return (training set, test set) of x `input_shape` float32 and y int64."""
        train, _, test = self._found(root)
        train, test = self._first("subset", self.subset, *train), self._first("tested", self.tested, *test)
        return self._shaped(*train), self._shaped(*test)

    @override
    def validation(self, root: Path | None) -> TensorDataset | None:
        if not self.split_off:
            return None
        _, (x, y), _ = self._found(root)
        return self._shaped(x.clone(), y.clone())  # so that the memory of the others is free again

    def _found(self, root: Path | None) -> tuple[_Images, _Images, _Images]:
        """Return images and labels to train on, to validate (as many as wanted), and to test with."""
        self.note = None
        try:
            train, test = self._mnist(root)
            return *split_off(self.split_off, *train), test
        except DownloadError as error:
            self.note = (
                f"MNIST is not in the data folder and could not be downloaded ({error}): using "
                "scikit-learn's 1,797 digits scaled to 28x28, those to train on "
                f"{COPIES} times, shifted, turned and scaled"
            )
            return many_digits(self.split_off, self.subset)

    def _mnist(self, root: Path | None) -> tuple[_Images, _Images]:
        paths = locate(root, "mnist", FILES)
        if paths is None:
            folder = cache_folder() / "mnist"
            self.fetch(folder)
            paths = [folder / f"{name}.gz" for name in FILES]
        return _read(paths[0], paths[1]), _read(paths[2], paths[3])

    def _first(self, name: str, count: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first `count` images; of digits, of which there are fewer, at most all."""
        if count > len(x) and self.note is None:
            raise UserError(f"more than there is ({name}={count}): give {len(x)} or less, 0 for all")
        if 0 < count < len(x):  # copied, so that the memory of the others is free again
            return x[:count].clone(), y[:count].clone()
        return x, y

    def _shaped(self, x: Tensor, y: Tensor) -> TensorDataset:
        return TensorDataset(x.reshape(-1, *self.input_shape), y)


class MnistFcn(Mnist):
    """MNIST with the paper's fully connected network."""

    name = "mnist-fcn"
    input_shape = (784,)

    def __init__(
        self, depth: int = 6, width: int = 256, subset: int = 0, validation: int = 0, tested: int = 0
    ) -> None:
        """Depth: hidden layers; width: units in each; subset: first training images to use, 0 for all;
        validation: last training images to hold out for --patience; tested: first test images to use, 0 for
        all."""
        super().__init__(subset, validation, tested)
        self.depth, self.width = at_least(1, depth=depth), at_least(1, width=width)

    @override
    def layers(self) -> list[nn.Module]:
        return fully_connected(self.depth, self.width)


class MnistCnn(Mnist):
    """MNIST with the paper's convolutional network (128 filters there)."""

    name = "mnist-cnn"
    input_shape = (1, 28, 28)

    def __init__(self, depth: int = 3, filters: int = 16, subset: int = 0, validation: int = 0) -> None:
        """Depth: convolutions; filters: channels of each; subset: first training images to use, 0 for all;
        validation: last training images to hold out for --patience."""
        super().__init__(subset, validation)
        self.depth, self.filters = at_least(1, depth=depth), at_least(1, filters=filters)

    @override
    def layers(self) -> list[nn.Module]:
        return convolutional(self.depth, self.filters)


def convolutional(depth: int, filters: int) -> list[nn.Module]:
    """Return the paper's CNN for inputs (B, 1, 28, 28): (Conv, BatchNorm, ReLU, pool) x depth, then Linear.

    ```
    layer    1        2      3      4      from 5 on
    side     28 → 14  → 7    → 4    → 2    2, without a pool
    ```
    """
    layers: list[nn.Module] = []
    channels, side = 1, 28
    for _ in range(depth):
        parts = [nn.Conv2d(channels, filters, 5, padding="same"), nn.BatchNorm2d(filters), nn.ReLU()]
        if side >= 3:
            parts.append(nn.MaxPool2d(3, stride=2, padding=1))
            side = (side + 1) // 2
        layers.append(nn.Sequential(*parts))
        channels = filters
    return [*layers, nn.Sequential(nn.Flatten(), nn.Linear(filters * side**2, 10))]


def _read(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """Return (N, 28, 28) normalised float32 images and (N,) int64 labels."""
    x, y = read_labelled(images, labels)
    return normalise(torch.from_numpy(x.astype(np.float32)).div_(255)), torch.from_numpy(y)
