"""What tests share: one CPU thread, where real data is, and a little MNIST in its place."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve a busy machine

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.vision.mnist import FILES


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Bit-for-bit comparisons need it, and a shared machine is grateful."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data: DNI_DATA, or ../shared/data beside the repository."""
    given = os.environ.get("DNI_DATA")
    root = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (root / "mnist").is_dir():
        pytest.skip(f"no real MNIST here ({root / 'mnist'}): set DNI_DATA to run this test")
    return root


def idx(array: np.ndarray) -> bytes:
    """The array as the bytes of an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, empty and away from the user's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dni_async"


@pytest.fixture
def write_mnist() -> Callable[..., Path]:
    """Writes a little MNIST of 20 training and 10 test images into a folder, gzipped or plain."""

    def write(folder: Path, zipped: bool = True) -> Path:
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for name, count in zip(FILES, (20, 20, 10, 10), strict=True):
            images = rng.integers(0, 256, (count, 28, 28))
            content = idx(images if "images" in name else np.arange(count) % 10)
            path = folder / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(content) if zipped else content)
        return folder

    return write
