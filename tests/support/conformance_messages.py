"""Messages of every kind, dtype and shape, and their comparison."""

from __future__ import annotations

import itertools
import random

import torch

from dni_async.messages import MAX_EXTRAS, Activation, Marker, MarkerKind, Message, TargetGradient
from workers.transport.wire import DTYPES


def message(seed: int) -> Message:
    """The same random message on both sides."""
    rng = random.Random(seed)
    shape = [rng.randrange(0, 40) for _ in range(rng.randrange(0, 4))]
    tensor = values(rng.choice(DTYPES), shape, seed)
    kind = rng.randrange(5)
    if kind == 0:
        body = {str(i): {"seen": i, "text": "ü" * rng.randrange(300)} for i in range(rng.randrange(4))}
        return Marker(MarkerKind(rng.randrange(3)), seed, rng.randrange(9), rng.random() < 0.5, body)
    if kind == 1:
        return TargetGradient(seed, rng.randrange(9), tensor, rng.choice([0.0, 0.25, 1.0]))
    labels = values(torch.int64, shape[:1], seed + 1)
    extras = tuple(values(rng.choice(DTYPES), shape[:i], seed + i) for i in range(rng.randrange(3)))
    return Activation(seed, rng.randrange(9), tensor, labels, rng.random() < 0.5, extras)


def values(dtype: torch.dtype, shape: list[int], seed: int) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 50).to(dtype)


def special_messages() -> list[Message]:
    """Every dtype and every awkward shape."""
    h = values(torch.float32, [6, 10], 1)
    shapes: list[list[int]] = [[], [0], [3, 0, 2], [1], [5, 3], [2, 1, 3, 1, 2, 1, 1, 2]]
    pairs = [(values(d, s, 2), values(d, s[:1], 3)) for d, s in itertools.product(DTYPES, shapes)]
    pairs += [(h.t(), h[:, ::2]), (h[::2, 1:4], torch.tensor(7)), (h.expand(2, 6, 10), h[0].bool())]
    pairs += [(h.clone().requires_grad_(), h.double()), (values(torch.float32, [700, 999], 4), h)]
    made: list[Message] = [Activation(i, 2, h, y, bool(i % 2)) for i, (h, y) in enumerate(pairs)]
    most = tuple(values(DTYPES[i % len(DTYPES)], [6, i], i) for i in range(MAX_EXTRAS))
    made += [Activation(0, 1, h, h[0], True, most), Activation(1, 1, h, h[0], False, (h.t(), h[0, 0]))]
    made += [TargetGradient(2**40, 3, h.t()), Marker(MarkerKind.STOP, 5, -1, True, {"a": [1, None, 2.5]})]
    return made


def assert_same(got: Message, wanted: Message) -> None:
    """Equal in kind, fields, dtypes, shapes and every element."""
    assert type(got) is type(wanted)
    for name in wanted.__slots__:
        a, b = getattr(got, name), getattr(wanted, name)
        if isinstance(b, torch.Tensor):
            _assert_equal(a, b, name)
        elif name == "extras":
            assert len(a) == len(b)
            for got_extra, wanted_extra in zip(a, b, strict=True):
                _assert_equal(got_extra, wanted_extra, name)
        else:
            assert a == b, name


def _assert_equal(got: torch.Tensor, wanted: torch.Tensor, name: str) -> None:
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), name
    assert torch.equal(got, wanted), name
