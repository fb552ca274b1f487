from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from dni_async.errors import UserError
from tasks.base import Task
from tasks.vision.digits import DigitsFcn
from tasks.vision.download import DownloadError
from tasks.vision.mnist import FILES, MnistCnn, MnistFcn
from tests.support.mnist_files import write_mnist

pytestmark = pytest.mark.usefixtures("cache")


class Offline(MnistFcn):
    def fetch(self, folder: Path) -> None:
        raise DownloadError("mirror: unplugged")


class OfflineCnn(MnistCnn):
    def fetch(self, folder: Path) -> None:
        raise DownloadError("mirror: unplugged")


def shapes(task: Task, x: torch.Tensor) -> list[tuple[int, ...]]:
    """Output shape of each layer."""
    found = []
    for layer in task.layers():
        x = layer(x)
        found.append(tuple(x.shape[1:]))
    return found


def test_the_fcn_is_hidden_blocks_and_a_linear_layer() -> None:
    task = MnistFcn(depth=3, width=16)
    assert shapes(task, torch.rand(2, 784)) == [(16,), (16,), (16,), (10,)]
    kinds = [
        [type(part) for part in layer] for layer in task.layers()[:-1] if isinstance(layer, nn.Sequential)
    ]
    assert kinds == [[nn.Linear, nn.BatchNorm1d, nn.ReLU]] * 3
    assert len(MnistFcn().layers()) == 7


@pytest.mark.parametrize(
    ("depth", "sides"), [(1, [14]), (3, [14, 7, 4]), (4, [14, 7, 4, 2]), (6, [14, 7, 4, 2, 2, 2])]
)
def test_the_cnn_pools_while_there_is_something_to_pool(depth: int, sides: list[int]) -> None:
    task = MnistCnn(depth=depth, filters=4)
    assert shapes(task, torch.rand(2, 1, 28, 28)) == [*[(4, side, side) for side in sides], (10,)]


def test_the_same_seed_gives_the_same_network() -> None:
    def weights() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return [p for layer in MnistCnn(depth=2, filters=2).layers() for p in layer.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(), weights(), strict=True))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: MnistFcn(depth=0), "depth is 0; it must be at least 1"),
        (lambda: MnistFcn(width=0), "width is 0; it must be at least 1"),
        (lambda: MnistFcn(subset=-1), "subset is -1; it must be at least 0"),
        (lambda: MnistCnn(depth=-2), "depth is -2; it must be at least 1"),
        (lambda: MnistCnn(filters=0), "filters is 0; it must be at least 1"),
    ],
)
def test_settings_that_make_no_network_are_refused(make: Callable[[], Task], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make()


def test_the_mnist_tasks_have_their_names() -> None:
    assert (MnistFcn().name, MnistCnn().name) == ("mnist-fcn", "mnist-cnn")


def sizes(sets: tuple[TensorDataset, TensorDataset]) -> tuple[int, int]:
    return len(sets[0]), len(sets[1])


@pytest.mark.parametrize("task", [MnistFcn(), MnistCnn()])
def test_the_real_mnist_is_read_whole_and_in_order(data_root: Path, task: Task) -> None:
    train, test = task.data(data_root)
    assert isinstance(train, TensorDataset) and isinstance(test, TensorDataset)
    assert sizes((train, test)) == (60_000, 10_000)
    x, y = train.tensors
    assert x.shape[1:] == (784,) or x.shape[1:] == (1, 28, 28)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert y[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert test.tensors[1][:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert abs(x.mean().item()) < 1e-3 and abs(x.std().item() - 1) < 1e-3
    assert task.note is None


def test_subset_takes_the_first_training_images(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    whole, _ = MnistFcn().data(tmp_path)
    for subset, count in ((5, 5), (20, 20), (0, 20)):
        train, test = MnistFcn(subset=subset).data(tmp_path)
        assert sizes((train, test)) == (count, 10)
        assert torch.equal(train.tensors[0], whole.tensors[0][:count])
    with pytest.raises(UserError, match=r"\(subset=21\): give 20 or less"):
        MnistFcn(subset=21).data(tmp_path)


def test_the_last_training_images_are_held_out_and_the_subset_is_of_the_others(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    whole, _ = MnistFcn().data(tmp_path)
    assert MnistFcn().validation(tmp_path) is None
    for subset, count in ((0, 15), (4, 4)):
        task = MnistFcn(subset=subset, validation=5)
        assert torch.equal(task.data(tmp_path)[0].tensors[0], whole.tensors[0][:count])
        validation = task.validation(tmp_path)
        assert validation is not None
        for part, all_of_it in zip(validation.tensors, whole.tensors, strict=True):
            assert torch.equal(part, all_of_it[15:])
        assert validation.tensors[0].untyped_storage().nbytes() == 5 * 784 * 4
    with pytest.raises(UserError, match=r"\(subset=16\): give 15 or less"):
        MnistFcn(subset=16, validation=5).data(tmp_path)


def test_a_small_subset_does_not_hold_the_memory_of_the_whole(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    x = MnistFcn(subset=5).data(tmp_path)[0].tensors[0]
    assert x.untyped_storage().nbytes() == 5 * 784 * 4


def test_zipped_and_plain_files_give_the_same_numbers(tmp_path: Path) -> None:
    write_mnist(tmp_path / "zipped" / "mnist")
    write_mnist(tmp_path / "plain" / "mnist", zipped=False)
    zipped, plain = (MnistCnn().data(tmp_path / folder)[0].tensors for folder in ("zipped", "plain"))
    assert torch.equal(zipped[0], plain[0]) and torch.equal(zipped[1], plain[1])


def test_missing_files_are_downloaded_into_the_cache_once(tmp_path: Path, cache: Path) -> None:
    class Fetching(MnistFcn):
        def fetch(self, folder: Path) -> None:
            write_mnist(folder)  # fails when the folder is there already

    for _ in range(2):
        task = Fetching()
        assert sizes(task.data(tmp_path)) == (20, 10)
        assert task.note is None
    assert (cache / "mnist" / f"{FILES[0]}.gz").exists()


@pytest.mark.parametrize(
    ("task", "count", "shape"),
    [(Offline(subset=70_000), 40 * 1497, (784,)), (OfflineCnn(subset=2000), 2000, (1, 28, 28))],
)
def test_without_mnist_and_network_digits_stand_in_and_the_note_says_so(
    tmp_path: Path, task: Offline | OfflineCnn, count: int, shape: tuple[int, ...]
) -> None:
    assert task.note is None
    train, test = task.data(tmp_path)
    assert sizes((train, test)) == (count, 300)
    assert train.tensors[0].shape[1:] == shape
    assert task.note == (
        "MNIST is not in the data folder and could not be downloaded (mirror: unplugged): using "
        "scikit-learn's 1,797 digits scaled to 28x28, those to train on 40 times, shifted, turned and scaled"
    )


def test_digits_that_are_held_out_are_not_trained_on_as_distorted_copies_either() -> None:
    task = Offline(validation=497, subset=2500)
    train, test = task.data(None)
    held_out = task.validation(None)
    assert held_out is not None
    assert (len(train), len(held_out), len(test)) == (2500, 497, 300)
    first, again = train.tensors[1][:1000], train.tensors[1][1000:2000]
    assert torch.equal(first, again)  # the second copies are of the same 1,000 images
    plain = DigitsFcn(validation=497).validation(None)
    assert plain is not None and torch.equal(held_out.tensors[0], plain.tensors[0])


def test_the_note_is_gone_when_mnist_is_there(tmp_path: Path) -> None:
    task = Offline(subset=20)
    task.data(tmp_path)
    write_mnist(tmp_path / "mnist")
    task.data(tmp_path)
    assert task.note is None


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("where", ["data folder", "cache"])
def test_a_damaged_file_is_never_replaced(tmp_path: Path, cache: Path, where: str, number: int) -> None:
    folder = write_mnist((tmp_path if where == "data folder" else cache) / "mnist")
    path = folder / f"{FILES[number]}.gz"
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    with pytest.raises(UserError, match=f"damaged gzip file.*{FILES[number]}"):
        Offline().data(tmp_path)
    assert path.read_bytes() == content[:-3]


def test_swapped_images_and_labels_are_detected(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "mnist")
    (folder / f"{FILES[0]}.gz").write_bytes((folder / f"{FILES[1]}.gz").read_bytes())
    with pytest.raises(UserError, match=f"magic 0x00000801 instead of 0x00000803.*{FILES[0]}"):
        Offline().data(tmp_path)


def test_training_labels_with_test_images_are_detected(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "mnist")
    (folder / f"{FILES[3]}.gz").write_bytes((folder / f"{FILES[1]}.gz").read_bytes())
    with pytest.raises(UserError, match=f"20 labels for the 10 images.*{FILES[3]}"):
        Offline().data(tmp_path)


def test_a_data_folder_that_is_not_there_is_not_replaced_by_digits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        Offline().data(tmp_path / "nowhere")
