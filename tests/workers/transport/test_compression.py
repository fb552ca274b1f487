"""Fewer bytes on a link: what arrives, up to rounding, and what must not be lost."""

from __future__ import annotations

import math

import pytest
import torch

from dni_async.messages import Activation, Marker, MarkerKind, TargetGradient
from workers.transport.compression import (
    CompressingSender,
    DecompressingReceiver,
    WireFormat,
    compress,
    decompress,
)
from workers.transport.memory import memory_channel

SHAPES = [(5,), (3, 4, 4), (7, 6), ()]


def there_and_back(tensor: torch.Tensor, wire: WireFormat) -> torch.Tensor:
    return decompress(compress(tensor, wire), tuple(tensor.shape[1:]), tensor.dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_int8_is_off_by_half_a_unit_of_the_sample_at_most(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    scales = torch.tensor([1e-6, 1.0, 3e4]).reshape(3, *[1] * len(shape))
    tensor = (torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) * scales).to(dtype)
    got = there_and_back(tensor, "int8")
    assert (got.shape, got.dtype) == (tensor.shape, dtype)
    largest = tensor.double().abs().reshape(3, -1).amax(dim=1)
    off = (got.double() - tensor.double()).abs().reshape(3, -1).amax(dim=1)
    rounding = 2**-8 if dtype is torch.bfloat16 else 1e-6
    assert (off <= largest * (0.5 / 127 * 1.001 + rounding)).all()


def test_int8_is_a_quarter_of_the_bytes_and_bf16_half() -> None:
    tensor = torch.randn(256, 1024)
    assert compress(tensor, "int8").nbytes == tensor.nbytes // 4 + 256 * 4
    assert compress(tensor, "bf16").nbytes == tensor.nbytes // 2
    assert compress(tensor, "fp32") is tensor


def test_bf16_rounds_as_torch_does() -> None:
    tensor = torch.randn(4, 9)
    assert torch.equal(there_and_back(tensor, "bf16"), tensor.bfloat16().float())


@pytest.mark.parametrize("wire", ["fp32", "bf16", "int8"])
def test_zeros_stay_zeros_and_no_rows_no_rows(wire: WireFormat) -> None:
    assert torch.equal(there_and_back(torch.zeros(2, 3), wire), torch.zeros(2, 3))
    for shape in SHAPES:
        assert there_and_back(torch.ones(2, *shape)[:0], wire).shape == (0, *shape)


@pytest.mark.parametrize("wire", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_batch_that_is_not_finite_does_not_become_finite(wire: WireFormat, bad: float) -> None:
    tensor = torch.ones(3, 4)
    tensor[1, 2] = bad
    got = there_and_back(tensor, wire)
    assert not got[1].isfinite().all() and torch.allclose(got[[0, 2]], torch.ones(2, 4))


@pytest.mark.parametrize("wire", ["bf16", "int8"])
def test_sequences_may_be_of_another_length_than_in_the_plan(wire: WireFormat) -> None:
    for length in (2, 5, 9):
        h = torch.randn(3, length, 4)
        got = decompress(compress(h, wire), (5, 4), torch.float32)
        assert got.shape == h.shape and torch.allclose(got, h, atol=0.05)


@pytest.mark.parametrize("wire", ["bf16", "int8"])
def test_integers_stay_as_they_are(wire: WireFormat) -> None:
    tokens = torch.arange(12).reshape(3, 4)
    assert compress(tokens, wire) is tokens
    assert decompress(tokens, (4,), torch.int64) is tokens


@pytest.mark.parametrize("wire", ["bf16", "int8"])
def test_ends_restore_messages_and_count_bytes_of_training(wire: WireFormat) -> None:
    tx, rx = memory_channel(8)
    h, y, mask = torch.randn(6, 2, 5), torch.arange(6), torch.rand(6, 2)
    with CompressingSender(tx, wire) as sender, DecompressingReceiver(rx, (2, 5), torch.float32) as receiver:
        for train in (True, False):
            sender.send(Activation(3, 4, h, y, train, extras=(mask,)), 1.0)
            got = receiver.recv(1.0)
            assert isinstance(got, Activation) and (got.step, got.version, got.train) == (3, 4, train)
            assert torch.equal(got.h, there_and_back(h, wire)) and got.y is y
            assert got.extras == (mask,) and got.extras[0] is mask
            receiver.release()
        sender.send(TargetGradient(3, 4, h), 1.0)
        got = receiver.recv(1.0)
        assert isinstance(got, TargetGradient) and torch.equal(got.grad, there_and_back(h, wire))
        receiver.release()
        marker = Marker(MarkerKind.EPOCH, 3, 0)
        sender.send(marker, 1.0)
        assert receiver.recv(1.0) is marker
        assert sender.sent == 4
        assert sender.bytes_per_batch() == compress(h, wire).nbytes + (y.nbytes + mask.nbytes) / 2
