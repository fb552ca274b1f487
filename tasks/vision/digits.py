"""Scikit-learn's handwritten digits, scaled to MNIST's size: a task that needs no file and no network."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from typing_extensions import override

from dni_async.checks import at_least
from tasks.base import Task
from tasks.splits import split_off
from tasks.vision.distortion import distorted_copies
from tasks.vision.idx_files import normalise

TEST_PER_CLASS = 30
"""Test images of each class: 300 in all, which leaves 1,497 to train on."""
COPIES = 40
"""How often each training image comes where MNIST is replaced: 59,880 images, about as many as MNIST has."""

_Images = tuple[Tensor, Tensor]


class DigitsFcn(Task):
    """The paper's fully connected network on 1,797 digits: 1,497 to train on, 300 to test with."""

    name = "digits-fcn"
    classes = 10

    def __init__(self, depth: int = 6, width: int = 256, validation: int = 0) -> None:
        """Depth: hidden layers; width: units in each; validation: last training images to hold out for
        --patience."""
        self.depth, self.width = at_least(1, depth=depth), at_least(1, width=width)
        self.split_off = at_least(0, validation=validation)

    @override
    def layers(self) -> list[nn.Module]:
        return fully_connected(self.depth, self.width)

    @override
    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        """Return (training set, test set) of x (784,) float32 and y int64; `root` is not used."""
        train, (x_test, y_test) = digits()
        (x_train, y_train), _ = split_off(self.split_off, *train)
        return TensorDataset(x_train.flatten(1), y_train), TensorDataset(x_test.flatten(1), y_test)

    @override
    def validation(self, root: Path | None) -> TensorDataset | None:
        if not self.split_off:
            return None
        _, (x, y) = split_off(self.split_off, *digits()[0])
        return TensorDataset(x.flatten(1), y)


def fully_connected(depth: int, width: int) -> list[nn.Module]:
    """Return the paper's FCN for (B, 784) inputs: depth times (Linear, BatchNorm, ReLU), then Linear to 10.

    Each group of three is one layer, so that a cut never falls inside it: depth + 1 layers.
    """
    sizes = [784] + [width] * depth
    hidden: list[nn.Module] = [
        nn.Sequential(nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()) for inputs in sizes[:-1]
    ]
    return [*hidden, nn.Linear(width, 10)]


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return ((x, y) to train on, (x, y) to test with); x (N, 1, 28, 28) normalised as MNIST is, y (N,).

    The split is always the same, with 30 test images of each class.
    """
    train, test = _scaled()
    return (normalise(train[0]), train[1]), (normalise(test[0]), test[1])


def many_digits(held_out: int, most: int = 0) -> tuple[_Images, _Images, _Images]:
    """Return (x, y) to train on, to validate and to test with, as `digits`, but each image to train on comes
    `COPIES` times, all but once distorted.

    Args:
        held_out: how many training images are for validation; no copy of them is trained on.
        most: how many images to train on are needed; 0 for all.
    """
    train, (x_test, y_test) = _scaled()
    (x, y), (x_held, y_held) = split_off(held_out, *train)
    copies = min(COPIES, math.ceil(most / len(x))) if most else COPIES
    whole = normalise(distorted_copies(x, copies)), y.repeat(copies)
    return whole, (normalise(x_held), y_held), (normalise(x_test), y_test)


def _scaled() -> tuple[_Images, _Images]:
    """Return ((x, y) to train on, (x, y) to test with); x (N, 1, 28, 28) from 0 to 1."""
    images, labels = _read()
    pixels = torch.tensor(images, dtype=torch.float32).unsqueeze(1) / 16
    x = F.interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False)
    y = torch.tensor(labels, dtype=torch.int64)
    train, test = _split(labels)
    return (x[train], y[train]), (x[test], y[test])


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 8, 8) of 0 to 16 and labels (N,) from scikit-learn's file. Importing the package
    would take a second."""
    package = find_spec("sklearn")
    assert package is not None and package.submodule_search_locations, "scikit-learn is a requirement"
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def _split(labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return shuffled indices of the training and of the test images."""
    stream = np.random.RandomState(0)  # the stream that numpy promises to keep
    drawn, order = stream.permutation(len(labels)), stream.permutation(len(labels))
    test = [drawn[labels[drawn] == label][:TEST_PER_CLASS] for label in np.unique(labels)]
    split_off = np.isin(order, np.concatenate(test))
    return torch.from_numpy(order[~split_off]), torch.from_numpy(order[split_off])
