"""A small MNIST of 20 training and 10 test images, in files of the original format."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from tasks.vision.mnist import FILES


def idx(array: np.ndarray) -> bytes:
    """Return the array as the bytes of an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, zipped: bool = True) -> Path:
    """Write the four files into a new folder, gzipped or plain, and return the folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in zip(FILES, (20, 20, 10, 10), strict=True):
        images = rng.integers(0, 256, (count, 28, 28))
        content = idx(images if "images" in name else np.arange(count) % 10)
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return folder
