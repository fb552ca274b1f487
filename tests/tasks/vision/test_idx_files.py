from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from dni_async.errors import UserError
from tasks.vision.idx_files import LARGEST, normalise, read_idx, read_labelled
from tests.support.mnist_files import idx

IMAGES = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
LABELS = np.array([7, 0, 9])


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    images, labels = tmp_path / "images.gz", tmp_path / "labels.gz"
    images.write_bytes(gzip.compress(idx(IMAGES)))
    labels.write_bytes(gzip.compress(idx(LABELS)))
    return images, labels


def test_images_and_labels_come_back_as_written(pair: tuple[Path, Path]) -> None:
    x, y = read_labelled(*pair)
    assert x.dtype == np.uint8 and (x == IMAGES).all()
    assert y.dtype == np.int64 and y.tolist() == [7, 0, 9]


@pytest.mark.parametrize("name", ["labels", "labels.gz"])
def test_a_file_is_unzipped_by_its_content_not_by_its_name(tmp_path: Path, name: str) -> None:
    for content in (idx(LABELS), gzip.compress(idx(LABELS))):
        (tmp_path / name).write_bytes(content)
        assert read_idx(tmp_path / name, rank=1).tolist() == [7, 0, 9]


def flipped(content: bytes, bit: int = 0) -> bytes:
    """With one bit turned over in the middle of the compressed data."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ (1 << bit)]) + content[middle + 1 :]


ZIPPED = gzip.compress(idx(IMAGES), mtime=0)
"""The same at any time: it names tests, and processes that share them must agree on the names."""


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "magic 0x instead of 0x00000803"),
        (b"<html>not found</html>", "magic 0x3c68746d instead of 0x00000803"),
        (idx(LABELS), "magic 0x00000801 instead of 0x00000803"),
        (b"\0\0\x0d\3" + idx(IMAGES)[4:], "magic 0x00000d03 instead of 0x00000803"),
        (idx(IMAGES)[:9], "cut off in its header"),
        (idx(IMAGES)[:-1], r"2351 data bytes where its header says \(3, 28, 28\)"),
        (idx(IMAGES) + b"\0", "2353 data bytes"),
        (idx(IMAGES[:0]), r"holds nothing: its header says \(0, 28, 28\)"),
        (ZIPPED[:-1], "damaged gzip file"),
        (ZIPPED[:40], "damaged gzip file"),
        (ZIPPED[:5], "damaged gzip file"),
        (ZIPPED + b"more", "damaged gzip file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "train-images"
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        read_idx(path, rank=3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_detected(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(flipped(gzip.compress(idx(IMAGES)), bit))
    with pytest.raises(UserError, match=r"damaged gzip file.*images\.gz"):
        read_idx(path, rank=3)


def test_a_header_of_more_than_any_data_set_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(b"\0\0\x08\3" + b"\xff" * 12)
    with pytest.raises(UserError, match=rf"which is more than {LARGEST:,} bytes"):
        read_idx(path, rank=3)


@pytest.mark.parametrize("count", [3_000, 2_000_000])
def test_a_zip_bomb_is_refused_with_little_memory(tmp_path: Path, count: int) -> None:
    path, real = tmp_path / "images.gz", 60_000 * 28 * 28  # bytes of the stream, whatever the header declares
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"\0\0\x08\3" + struct.pack(">3I", count, 28, 28))
        for _ in range(60):
            file.write(bytes(real // 60))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"or more where its header says|which is more than"):
        read_idx(path, rank=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [([1, 2], "2 labels for the 3 images of images.gz"), ([1, 10, 2], r"label 10 outside 0\.\.9")],
)
def test_labels_must_fit_the_images(pair: tuple[Path, Path], labels: list[int], complaint: str) -> None:
    pair[1].write_bytes(idx(np.array(labels)))
    with pytest.raises(UserError, match=rf"{complaint} \(.*labels\.gz\)"):
        read_labelled(*pair)


def test_images_of_another_size_are_refused(pair: tuple[Path, Path]) -> None:
    pair[0].write_bytes(idx(np.zeros((3, 8, 28))))
    with pytest.raises(UserError, match=r"8x28 pixels instead of 28x28 \(.*images\.gz\)"):
        read_labelled(*pair)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the file \(.*gone\): No such file"):
        read_idx(tmp_path / "gone", rank=1)


def test_normalised_black_and_white_are_the_well_known_numbers() -> None:
    black, white = normalise(torch.tensor([0.0, 1.0])).tolist()
    assert black == pytest.approx(-0.4242, abs=1e-4)
    assert white == pytest.approx(2.8215, abs=1e-4)
