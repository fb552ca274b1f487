"""Two networks at different tick rates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dni_async.errors import UserError
from tasks.contiguous import ContiguousBatches
from tasks.sequence.two_timescale import NetworkA, NetworkB, TwoTimescale
from tasks.vision.mnist import Mnist

DIGITS = torch.tensor([3, 3, 4, 0, 7, 1, 2, 2, 3])
"""Two sequences of period 2, and a digit that is left out."""


@pytest.fixture(autouse=True)
def images(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """An image of a digit shows its number everywhere."""
    shown = TensorDataset(DIGITS.unsqueeze(1).expand(-1, 784).float().contiguous(), DIGITS)
    monkeypatch.setattr("tasks.vision.mnist.Mnist.data", lambda self, root: (shown, shown))
    return shown.tensors[0]


def test_sequences_hold_digits_groups_and_the_answers_of_both_networks() -> None:
    x, y = TwoTimescale(period=2).data(None)[1].tensors
    assert x[..., 0].tolist() == [[3, 3, 4, 0], [7, 1, 2, 2]]
    assert x[..., 784].tolist() == [[1, 0, 1, 0]] * 2
    assert x[..., 785].tolist() == [[2, 2, 0, 0], [2, 2, 0, 0]]
    assert y.tolist() == [[[2, 0], [2, 1]], [[0, 0], [0, 1]]]


def test_whole_sequences_of_images_that_were_held_out_validate(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TwoTimescale(period=2)
    assert task.validation(None) is None
    shown = task.data(None)[1]
    monkeypatch.setattr("tasks.vision.mnist.Mnist.validation", lambda self, root: Mnist.data(self, root)[0])
    validation = task.validation(None)
    assert validation is not None
    assert all(torch.equal(a, b) for a, b in zip(validation.tensors, shown.tensors, strict=True))


@pytest.mark.parametrize("ticks", [1, 2])
def test_rows_of_batches_are_whole_sequences_one_after_another(ticks: int) -> None:
    train, _ = TwoTimescale(period=2, ticks=ticks).data(None)
    assert isinstance(train, ContiguousBatches)
    rows = [train.tensors[0][index][..., 0] for index in train.order(2)]
    assert torch.cat(rows, 1).tolist() == [[3, 3, 4, 0], [7, 1, 2, 2]]
    assert len(rows) == 2 // ticks and all(row.shape == (2, 2 * ticks) for row in rows)


def test_a_ticks_with_every_digit_and_b_once_in_a_period() -> None:
    first, second = TwoTimescale(period=3, width=8).layers()
    assert isinstance(first, NetworkA) and isinstance(second, NetworkB)
    x = torch.zeros(5, 6, 786)
    messages = first(x)
    assert messages.shape == (5, 2, 8) and second(messages).shape == (5, 2, 10)


def test_a_message_is_what_a_has_seen_so_far() -> None:
    network = TwoTimescale(period=2, width=8).layers()[0].eval()
    x = torch.randn(3, 4, 786)
    whole = network(x)
    torch.testing.assert_close(network(x[:, :2]), whole[:, :1])


def test_a_sees_no_answer() -> None:
    network = TwoTimescale(period=2, width=8).layers()[0].eval()
    x = torch.randn(3, 4, 786)
    other = x.clone()
    other[..., -1] += 1
    assert torch.equal(network(x), network(other))


def test_the_loss_of_a_joins_in_the_backward_and_is_reported() -> None:
    torch.manual_seed(0)
    network = TwoTimescale(period=2, width=8).layers()[0]
    assert isinstance(network, NetworkA)
    assert network.stats() == {"local_loss": None, "local_accuracy": None}
    x = TwoTimescale(period=2).data(None)[0].tensors[0]
    messages = network(x)
    messages.backward(torch.zeros_like(messages))
    before = network.stats()["local_loss"]
    assert network.head.weight.grad is not None and network.encoder[0].weight.grad.abs().sum() > 0
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        network(x).sum().mul(0).backward()
        optimizer.step()
    network.new_epoch()
    network(x)
    told = network.stats()
    assert told["local_accuracy"] >= 0.75 and 0 < told["local_loss"] < before / 2  # type: ignore[operator]


def test_b_answers_where_a_sequence_ends() -> None:
    task = TwoTimescale(period=2)
    y = torch.tensor([[[2, 0], [2, 1]], [[0, 0], [0, 1]]])
    output = torch.zeros(2, 2, 5)
    assert task.loss(output, y).item() == pytest.approx(torch.tensor(5.0).log().item())
    output[0, 1, 2] = 100.0
    assert task.loss(output, y).item() == pytest.approx(torch.tensor(5.0).log().item() / 2)
    assert task.loss(output[:, :1], y[:, :1]).item() == 0.0
    assert task.metric(output, y).tolist() == [1.0, 1.0]
    output[1, 1, 3] = 1.0
    assert task.metric(output, y).tolist() == [1.0, 0.0]
    assert task.condition(y).argmax(2).tolist() == [[2, 2], [0, 0]]


def test_ticks_must_divide_a_sequence() -> None:
    with pytest.raises(UserError, match="ticks is 3; it must divide the 4 ticks of a sequence"):
        TwoTimescale(ticks=3)
    with pytest.raises(UserError, match="end is rtrl; use one of"):
        TwoTimescale(end="rtrl")


def test_fewer_digits_than_a_sequence_make_none() -> None:
    assert TwoTimescale(period=4).data(None)[1].tensors[1].shape == (0, 4, 2)
