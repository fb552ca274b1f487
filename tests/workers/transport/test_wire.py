"""The wire format: what goes in comes out, and what was damaged is refused."""

import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_async.messages import MAX_EXTRAS, Activation, Marker, MarkerKind, Message, TargetGradient
from tests.support.conformance_messages import assert_same, message, special_messages
from workers.transport.wire import (
    ALIGN,
    HEADER_BYTES,
    WireError,
    add_checksum,
    assemble,
    decode,
    encode,
    payload_bytes,
)


def there_and_back(sent: Message) -> Message:
    """Through one buffer, as a slot does it."""
    header, tensors, specs = encode(sent)
    decoded = decode(add_checksum(header))
    assert decoded.specs == specs
    payload = torch.zeros(decoded.payload_bytes, dtype=torch.uint8)
    for spec, tensor in zip(decoded.specs, tensors, strict=True):
        assert spec.offset % ALIGN == 0
        payload[spec.offset : spec.offset + spec.nbytes].view(spec.dtype).copy_(tensor.reshape(-1))
    parts = [payload[s.offset : s.offset + s.nbytes].view(s.dtype).view(s.shape) for s in decoded.specs]
    return assemble(decoded, parts)


@pytest.mark.parametrize("sent", special_messages(), ids=lambda m: type(m).__name__)
def test_special_messages_survive_encoding(sent: Message) -> None:
    assert_same(there_and_back(sent), sent)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31))
def test_random_messages_survive_encoding(seed: int) -> None:
    assert_same(there_and_back(message(seed)), message(seed))


def test_the_layout_on_the_wire_is_the_documented_one() -> None:
    h, y = torch.zeros(3, 7), torch.zeros(3, dtype=torch.int64)
    assert HEADER_BYTES == 576
    header, tensors, _ = encode(Activation(1, 2, h, y))
    assert header[:8] == b"DNI2" + bytes([1, 1, 0, 2])
    assert tensors[0] is h
    assert [(s.offset, s.nbytes) for s in decode(add_checksum(header)).specs] == [(0, 84), (128, 24)]
    assert payload_bytes(Activation(1, 2, h, y)) == 108
    assert payload_bytes(Activation(1, 2, h, y, extras=(h, y))) == 216
    assert payload_bytes(TargetGradient(1, 2, h)) == 84
    assert payload_bytes(Marker(MarkerKind.STOP, 0, 0)) == 0


HEADERS = [add_checksum(encode(message(i))[0]) for i in range(20)]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(HEADERS),
    st.lists(st.tuples(st.integers(0, HEADER_BYTES - 1), st.integers(1, 255)), min_size=1),
)
def test_a_damaged_header_is_refused(header: bytes, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(header)
    for position, bits in flips:
        damaged[position] ^= bits
    if bytes(damaged) != header:
        with pytest.raises(WireError):
            decode(bytes(damaged))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2 * HEADER_BYTES))
def test_random_bytes_are_refused(noise: bytes) -> None:
    with pytest.raises(WireError):
        decode(noise)


@settings(max_examples=500, deadline=None)
@given(st.binary(min_size=HEADER_BYTES - 4, max_size=HEADER_BYTES - 4))
def test_a_forged_header_never_makes_an_impossible_tensor(noise: bytes) -> None:
    """Even with a right checksum: WireError, or shapes that torch can make."""
    header = bytearray(b"DNI2" + bytes([2, noise[1], noise[2], 1]) + noise[8:])
    header[28:30] = bytes([noise[28] % 12, noise[29] % 10])
    header += zlib.crc32(header).to_bytes(4, "little")
    assert len(header) == HEADER_BYTES
    try:
        decoded = decode(bytes(header))
    except WireError:
        return
    for spec in decoded.specs:
        torch.empty(spec.shape, dtype=spec.dtype, device="meta")


@pytest.mark.parametrize(
    "unsendable",
    [
        TargetGradient(0, 0, torch.zeros([1] * 9)),
        Activation(0, 0, torch.zeros(1), torch.zeros(1), extras=(torch.zeros(1),) * (MAX_EXTRAS + 1)),
        TargetGradient(0, 0, torch.zeros(1, dtype=torch.complex64)),
        TargetGradient(0, 0, torch.empty(2**32, device="meta")),
        Marker(MarkerKind.STOP, 0, 0, body={"tensor": torch.zeros(1)}),
    ],
)
def test_values_that_do_not_fit_the_format_are_refused(unsendable: Message) -> None:
    with pytest.raises(WireError, match="cannot be sent"):
        encode(unsendable)


def test_a_marker_that_cannot_be_read_is_refused() -> None:
    header = add_checksum(encode(Marker(MarkerKind.STOP, 0, 0))[0])
    with pytest.raises(WireError, match="marker cannot be read"):
        assemble(decode(header), [torch.tensor([255, 1], dtype=torch.uint8)])
