from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from dni_async.errors import UserError
from tasks.vision.digits import DigitsFcn, _read, digits
from tasks.vision.idx_files import PIXEL_MEAN, PIXEL_STD


def test_the_split_is_the_same_every_time_and_even_over_classes() -> None:
    (x_train, y_train), (x_test, y_test) = digits()
    assert (x_train.shape, x_test.shape) == ((1497, 1, 28, 28), (300, 1, 28, 28))
    assert y_test.bincount().tolist() == [30] * 10
    assert y_train.bincount().min() > 140
    (again, _), (_, labels_again) = digits()
    assert torch.equal(x_train, again) and torch.equal(y_test, labels_again)


def test_no_digit_is_in_both_sets_and_none_is_lost() -> None:
    from sklearn.datasets import load_digits

    (x_train, _), (x_test, _) = digits()
    both = torch.cat([x_train, x_test]).flatten(1).unique(dim=0)
    assert len(both) == len(torch.tensor(load_digits().data).unique(dim=0))


def test_classes_are_mixed_in_both_sets() -> None:
    (_, y_train), (_, y_test) = digits()
    assert len(y_train[:50].unique()) == len(y_test[:50].unique()) == 10


def test_pixels_fill_the_range_of_normalised_mnist() -> None:
    (x, y), _ = digits()
    pixels = x * PIXEL_STD + PIXEL_MEAN
    assert pixels.min().item() == pytest.approx(0, abs=1e-6)
    assert pixels.max().item() == pytest.approx(1, abs=1e-6)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_the_network_takes_the_data() -> None:
    task = DigitsFcn(depth=2, width=8)
    train, test = task.data(None)
    x, y = train.tensors
    output = torch.nn.Sequential(*task.layers())(x[:4])
    assert output.shape == (4, 10)
    assert task.loss(output, y[:4]).isfinite()
    assert (len(train), len(test)) == (1497, 300)
    assert (task.name, task.note, len(task.layers())) == ("digits-fcn", None, 3)


def test_the_last_digits_are_held_out() -> None:
    task, whole = DigitsFcn(validation=97), DigitsFcn().data(None)[0]
    (train, test), validation = task.data(None), task.validation(None)
    assert validation is not None and DigitsFcn().validation(None) is None
    assert (len(train), len(test), len(validation)) == (1400, 300, 97)
    for part, rest, both in zip(validation.tensors, train.tensors, whole.tensors, strict=True):
        assert torch.equal(torch.cat([rest, part]), both)


def test_a_few_steps_of_training_learn_something() -> None:
    torch.manual_seed(0)
    task = DigitsFcn(depth=1, width=32)
    network = torch.nn.Sequential(*task.layers())
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    train, test = task.data(None)
    for x, y in zip(*(tensor.split(250) for tensor in train.tensors), strict=True):
        optimizer.zero_grad()
        task.loss(network(x), y).backward()
        optimizer.step()
    x, y = test.tensors
    assert task.metric(network.eval()(x), y).mean() > 0.5


@pytest.mark.parametrize("setting", ["depth", "width"])
def test_settings_that_make_no_network_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=f"{setting} is 0; it must be at least 1"):
        DigitsFcn(**{setting: 0})


def test_the_digits_are_those_of_scikit_learn_which_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    expected = load_digits()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # importing it fails
    images, labels = _read()
    assert np.array_equal(images, expected.images) and np.array_equal(labels, expected.target)
    assert len(digits()[0][0]) == 1497
