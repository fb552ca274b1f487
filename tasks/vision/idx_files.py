"""A reader for the official IDX files of MNIST (gzipped or not)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from tasks.data_files import damaged, open_data, read_at_most

PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's training pixels, in units of 0..1."""

LARGEST = 1 << 30
"""Bytes of the largest array that is read; MNIST's largest has 47 MB."""

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Return the array of unsigned bytes, of `rank` dimensions, in an IDX file.

    ```
    byte  0 1 | 2      | 3    | 4 ...                                 | ...
          0 0 | 0x08   | rank | one big-endian 4-byte size a dimension | the elements, row-major
    ```
    Raises:
        UserError: the header is wrong, declares more than `LARGEST`, or does not fit the rest of the file.
    """
    with open_data(path) as file:
        header = read_at_most(file, 4 + 4 * rank)
        magic, expected = header[:4], bytes([0, 0, _UNSIGNED_BYTE, rank])
        if magic != expected:
            raise damaged(path, f"not an IDX file: magic 0x{magic.hex()} instead of 0x{expected.hex()}")
        if len(header) < 4 + 4 * rank:
            raise damaged(path, "IDX file cut off in its header")
        shape = tuple(int(size) for size in np.frombuffer(header, ">u4", rank, 4))
        declared = math.prod(shape)
        if 0 in shape:
            raise damaged(path, f"IDX file that holds nothing: its header says {shape}")
        if declared > LARGEST:
            raise damaged(path, f"IDX file whose header says {shape}, which is more than {LARGEST:,} bytes")
        content = read_at_most(file, declared + 1)  # one more shows that the file goes on
    if len(content) != declared:
        more = " or more" if len(content) > declared else ""
        raise damaged(path, f"IDX file of {len(content)} data bytes{more} where its header says {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_labelled(
    images: Path, labels: Path, side: int = 28, classes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, side, side) uint8 images and their (N,) int64 labels in 0..classes-1, from two IDX files.

    Raises:
        UserError: a file is damaged, or the two do not belong together.
    """
    x, y = read_idx(images, rank=3), read_idx(labels, rank=1)
    if x.shape[1:] != (side, side):
        raise damaged(images, f"images of {x.shape[1]}x{x.shape[2]} pixels instead of {side}x{side}")
    if len(x) != len(y):
        raise damaged(labels, f"{len(y)} labels for the {len(x)} images of {images.name}")
    if y.max() >= classes:
        raise damaged(labels, f"label {y.max()} outside 0..{classes - 1}")
    return x, y.astype(np.int64)


def normalise(pixels: Tensor) -> Tensor:
    """Return pixels in 0..1, in place, with about zero mean and unit variance over MNIST."""
    return pixels.sub(PIXEL_MEAN).div_(PIXEL_STD)
