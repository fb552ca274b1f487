from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from tasks.base import Task
from tasks.vision.cifar import FOLDER, RECORD, CifarCnn, read_batch

pytestmark = pytest.mark.usefixtures("cache")


def records(labels: list[int]) -> bytes:
    """Images whose pixels all equal ten times their label."""
    return b"".join(bytes([label]) + bytes([10 * label % 256]) * (RECORD - 1) for label in labels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(records([3, 1]))
    (folder / "data_batch_4.bin").write_bytes(records([9]))
    (folder / "test_batch.bin").write_bytes(records([0, 5]))
    return tmp_path


def shapes(task: Task) -> list[tuple[int, ...]]:
    x, found = torch.rand(2, 3, 32, 32), []
    for layer in task.layers():
        x = layer(x)
        found.append(tuple(x.shape[1:]))
    return found


def test_each_convolution_is_a_layer_and_the_named_ones_pool() -> None:
    assert shapes(CifarCnn(filters=(4, 5, 6), pools=(1, 3), kernel=3)) == [
        (4, 16, 16),
        (5, 16, 16),
        (6, 8, 8),
        (10,),
    ]
    block = CifarCnn().layers()[0]
    assert isinstance(block, nn.Sequential)
    assert [type(part) for part in block] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: CifarCnn(filters=()), "filters is 0; it must be at least 1"),
        (lambda: CifarCnn(filters=(4, 0)), "filters is 0; it must be at least 1"),
        (lambda: CifarCnn(kernel=0), "kernel is 0; it must be at least 1"),
        (lambda: CifarCnn(subset=-1), "subset is -1; it must be at least 0"),
        (lambda: CifarCnn(pools=(1, 1)), "pools is 1,1; name convolutions 1 to 4, each once"),
        (lambda: CifarCnn(pools=(5,)), "pools is 5; name convolutions 1 to 4"),
        (lambda: CifarCnn((1,) * 6, (1, 2, 3, 4, 5, 6)), "32 pixels can be halved five times"),
    ],
)
def test_settings_that_make_no_network_are_refused(make: Callable[[], Task], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make()


def test_the_training_files_that_are_there_are_read_in_order(root: Path) -> None:
    task = CifarCnn()
    train, test = task.data(root)
    x, y = train.tensors
    assert (x.shape, x.dtype, y.tolist()) == ((3, 3, 32, 32), torch.float32, [3, 1, 9])
    assert test.tensors[1].tolist() == [0, 5]
    assert torch.allclose(x[0, 0], torch.tensor((30 / 255 - 0.4914) / 0.2470))
    assert task.note == "CIFAR-10 lacks 3 of its 5 training files: 3 images"


def test_a_record_is_a_label_and_three_planes(tmp_path: Path) -> None:
    planes = np.arange(3 * 32 * 32, dtype=np.uint8)
    (tmp_path / "a.bin").write_bytes(bytes([7]) + planes.tobytes())
    x, y = read_batch(tmp_path / "a.bin")
    assert y.tolist() == [7]
    assert np.array_equal(x, planes.reshape(1, 3, 32, 32))


def test_subset_takes_the_first_images(root: Path) -> None:
    assert CifarCnn(subset=2).data(root)[0].tensors[1].tolist() == [3, 1]
    with pytest.raises(UserError, match=r"\(subset=4\): give 3 or less"):
        CifarCnn(subset=4).data(root)


def test_the_last_images_are_held_out(root: Path) -> None:
    task = CifarCnn(validation=1)
    (train, _), validation = task.data(root), task.validation(root)
    assert validation is not None and CifarCnn().validation(root) is None
    assert (train.tensors[1].tolist(), validation.tensors[1].tolist()) == ([3, 1], [9])
    assert torch.equal(validation.tensors[0], CifarCnn().data(root)[0].tensors[0][2:])


@pytest.mark.parametrize("content", [b"", records([1])[:-1], records([10])])
def test_a_damaged_file_is_named(root: Path, content: bytes) -> None:
    (root / FOLDER / "data_batch_4.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"data_batch_4\.bin\): put an intact copy"):
        CifarCnn().data(root)


def test_no_files_is_bad_input(root: Path) -> None:
    with pytest.raises(UserError, match="CIFAR-10 is nowhere"):
        CifarCnn().data(None)
    for file in (root / FOLDER).glob("data_batch_*"):
        file.unlink()
    with pytest.raises(UserError, match="no training file of CIFAR-10"):
        CifarCnn().data(root)


def test_the_real_cifar_is_read(data_root: Path) -> None:
    if not (data_root / FOLDER).exists():
        pytest.skip("no CIFAR-10 in the data folder")
    train, test = CifarCnn(subset=1000).data(data_root)
    x, y = train.tensors
    assert len(x) == 1000 and len(test) >= 1000
    assert y.bincount(minlength=10).min() > 50
    assert abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1
