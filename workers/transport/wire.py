"""A message as bytes: one header of fixed size, then the payload of its tensors.

    0        4     5      6        7          8        16       24      28                572     576
    | magic | kind | flags | marker  | tensors  | step   | version | epoch | 16 tensor specs | crc32 |

A tensor spec is dtype, ndim and up to 8 dims of 32 bits; those behind the specs of the tensors are zero. The
receiver learns every shape from the header before it touches the payload, so sizes may change from message to
message. The checksum also covers what a transport puts in front of the header. A header that is foreign or
damaged raises `WireError`.
"""

from __future__ import annotations

import functools
import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dni_async.messages import MAX_EXTRAS, Activation, Marker, MarkerKind, Message, TargetGradient

MAGIC = b"DNI2"
MAX_TENSORS = 2 + MAX_EXTRAS
MAX_DIMS = 8
MAX_DIM = (1 << 32) - 1
MAX_ELEMENTS = 1 << 48
ALIGN = 64
"""Payload tensors start at multiples of this many bytes (torch's own alignment on CPU)."""

_FIXED = struct.Struct("<4s4B2qi")
_SPEC = struct.Struct(f"<2B{MAX_DIMS}I")
_CRC = struct.Struct("<I")
_INT, _FLOAT = struct.Struct("<i"), struct.Struct("<f")
HEADER_BYTES = _FIXED.size + MAX_TENSORS * _SPEC.size + _CRC.size

_ACTIVATION, _TARGET, _MARK = 1, 2, 3
_TENSORS: dict[int, Sequence[int]] = {_ACTIVATION: range(2, MAX_TENSORS + 1), _TARGET: (1,), _MARK: (1,)}
"""How many tensors a message of each kind may have."""
_TRAIN, _RETURNING = 1, 2

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
_CODE = {dtype: code for code, dtype in enumerate(DTYPES)}
_ITEMSIZE = tuple(dtype.itemsize for dtype in DTYPES)


class WireError(RuntimeError):
    """Bytes that are not one of our messages."""


@dataclass(slots=True, frozen=True)
class TensorSpec:
    """Where one tensor lies in the payload."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """Bytes from the payload's start."""
    nbytes: int


Specs = tuple[TensorSpec, ...]
"""Where the tensors of one message lie."""


@dataclass(slots=True)
class Header:
    """A decoded header: enough to allocate the payload and then to assemble the message."""

    kind: int
    flags: int
    marker: int
    step: int
    version: int
    epoch: int
    specs: Specs

    @property
    def payload_bytes(self) -> int:
        """Bytes of the whole payload, padding included."""
        return self.specs[-1].offset + self.specs[-1].nbytes if self.specs else 0


def encode(message: Message) -> tuple[bytes, list[Tensor], Specs]:
    """The header without its checksum, the tensors in payload order, and where they lie in the payload.

    The tensors are detached, and of any strides and device. Raises WireError for a tensor or a marker body
    that cannot be sent.
    """
    flags = marker = epoch = version = 0
    if isinstance(message, Activation):
        kind, tensors, version = _ACTIVATION, [message.h, message.y, *message.extras], message.version
        flags = _TRAIN if message.train else 0
    elif isinstance(message, TargetGradient):
        kind, tensors, version = _TARGET, [message.grad], message.version
        (epoch,) = _INT.unpack(_FLOAT.pack(message.trust))  # targets have no epoch
    else:
        kind, marker, epoch = _MARK, int(message.kind), message.epoch
        flags = _RETURNING if message.returning else 0
        tensors = [_body(message)]
    tensors = [tensor.detach() if tensor.requires_grad else tensor for tensor in tensors]
    packed, specs = _pack_specs(tuple([(tensor.dtype, tensor.shape) for tensor in tensors]))
    fixed = _FIXED.pack(MAGIC, kind, flags, marker, len(tensors), message.step, version, epoch)
    return fixed + packed, tensors, specs


def add_checksum(data: bytes) -> bytes:
    """What goes on the wire: a header without its checksum, or a transport's prefix and one."""
    return data + _CRC.pack(zlib.crc32(data))


def decode(packet: bytes, prefix: int = 0) -> Header:
    """Check and unpack the header behind `prefix` bytes. Raises WireError for a foreign or damaged packet."""
    if len(packet) != prefix + HEADER_BYTES:
        raise WireError(f"header of {len(packet) - prefix} bytes where {HEADER_BYTES} were expected")
    magic, kind, flags, marker, count, step, version, epoch = _FIXED.unpack_from(packet, prefix)
    if magic != MAGIC:
        raise WireError(f"header starts with {magic!r} instead of {MAGIC!r}")
    data, crc = packet[: -_CRC.size], packet[-_CRC.size :]
    if _CRC.pack(zlib.crc32(data)) != crc:
        raise WireError("header is damaged (checksum differs)")
    if count not in _TENSORS.get(kind, ()):
        raise WireError(f"message kind {kind} with {count} tensors is unknown")
    first = prefix + _FIXED.size
    specs = _unpack_specs(data[first : first + count * _SPEC.size])
    return Header(kind, flags, marker, step, version, epoch, specs)


def payload_bytes(message: Message) -> int:
    """Bytes of the tensors in a message."""
    if isinstance(message, Activation):
        return message.h.nbytes + message.y.nbytes + sum(extra.nbytes for extra in message.extras)
    return message.grad.nbytes if isinstance(message, TargetGradient) else 0


def assemble(header: Header, tensors: list[Tensor]) -> Message:
    """The message of a header and its tensors, on any device. Raises WireError for an unreadable marker."""
    if header.kind == _ACTIVATION:
        h, y, *extras = tensors
        return Activation(header.step, header.version, h, y, bool(header.flags & _TRAIN), tuple(extras))
    if header.kind == _TARGET:
        (trust,) = _FLOAT.unpack(_INT.pack(header.epoch))
        return TargetGradient(header.step, header.version, tensors[0], trust)
    try:
        body = json.loads(tensors[0].cpu().numpy().tobytes())
        kind = MarkerKind(header.marker)
    except ValueError as error:
        raise WireError(f"marker cannot be read ({error})") from None
    return Marker(kind, header.step, header.epoch, bool(header.flags & _RETURNING), body)


def _body(marker: Marker) -> Tensor:
    try:
        text = json.dumps(marker.body)
    except (TypeError, ValueError) as error:
        raise WireError(f"marker body cannot be sent ({error}); use what JSON knows") from None
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


# Shapes repeat from step to step, so the three functions below cache their results.


@functools.lru_cache(maxsize=256)
def _lay_out(forms: tuple[tuple[torch.dtype, tuple[int, ...]], ...]) -> Specs:
    specs: list[TensorSpec] = []
    end = 0
    for dtype, shape in forms:
        offset = -(-end // ALIGN) * ALIGN
        specs.append(TensorSpec(dtype, tuple(shape), offset, math.prod(shape) * _ITEMSIZE[_CODE[dtype]]))
        end = offset + specs[-1].nbytes
    return tuple(specs)


@functools.lru_cache(maxsize=256)
def _pack_specs(forms: tuple[tuple[torch.dtype, tuple[int, ...]], ...]) -> tuple[bytes, Specs]:
    packed = []
    if len(forms) > MAX_TENSORS:
        raise WireError(f"message of {len(forms)} tensors cannot be sent (at most {MAX_TENSORS})")
    for dtype, shape in forms:
        if len(shape) > MAX_DIMS:
            raise WireError(f"tensor of {len(shape)} dimensions cannot be sent (at most {MAX_DIMS})")
        if max(shape, default=0) > MAX_DIM:
            raise WireError(f"tensor of shape {tuple(shape)} cannot be sent (sizes are at most {MAX_DIM})")
        if dtype not in _CODE:
            raise WireError(f"tensor of {dtype} cannot be sent (use one of {DTYPES})")
        packed.append(_SPEC.pack(_CODE[dtype], len(shape), *shape, *[0] * (MAX_DIMS - len(shape))))
    return b"".join(packed).ljust(MAX_TENSORS * _SPEC.size, b"\0"), _lay_out(forms)


@functools.lru_cache(maxsize=256)
def _unpack_specs(packed: bytes) -> Specs:
    forms = []
    for code, ndim, *dims in _SPEC.iter_unpack(packed):
        if code >= len(DTYPES) or ndim > MAX_DIMS or not _possible(dims[:ndim]):
            raise WireError(f"tensor spec is impossible (dtype {code}, shape {dims[:ndim]})")
        forms.append((DTYPES[code], tuple(dims[:ndim])))
    return _lay_out(tuple(forms))


def _possible(shape: list[int]) -> bool:
    """Whether torch can make such a tensor (it multiplies the sizes of empty ones, too)."""
    return math.prod([max(size, 1) for size in shape]) < MAX_ELEMENTS
