"""A message as bytes: one header of fixed size, then the payload of its tensors.

    0        4     5      6        7          8        16       24      28       32             224
    | magic | kind | flags | mark  | tensors  | step   | version | epoch | crc32 | 2 tensor specs |

A tensor spec is dtype, ndim and up to 8 dims. The receiver learns every shape from the header before
it touches the payload, so sizes may change from message to message. A header that is not ours, or was
damaged, raises `WireError`; nothing is guessed.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from dni_async.messages import Activation, Mark, MarkKind, Message, TargetGradient

MAGIC = b"DNI1"
MAX_TENSORS = 2
MAX_DIMS = 8
ALIGN = 64
"""Payload tensors start at multiples of this many bytes (torch's own alignment on CPU)."""

_FIXED = struct.Struct("<4s4B2qiI")
_SPEC = struct.Struct(f"<2B{MAX_DIMS}q")
HEADER_BYTES = _FIXED.size + MAX_TENSORS * _SPEC.size

_ACTIVATION, _TARGET, _MARK = 1, 2, 3
_TRAIN, _RETURNING = 1, 2

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
_CODE = {dtype: code for code, dtype in enumerate(DTYPES)}
_ITEMSIZE = tuple(torch.empty(0, dtype=dtype).element_size() for dtype in DTYPES)


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


@dataclass(slots=True)
class Header:
    """A decoded header: enough to make room for the payload and then to build the message."""

    kind: int
    flags: int
    mark: int
    step: int
    version: int
    epoch: int
    specs: list[TensorSpec]

    @property
    def payload_bytes(self) -> int:
        """Bytes of the whole payload, padding included."""
        return self.specs[-1].offset + self.specs[-1].nbytes if self.specs else 0


def encode(message: Message) -> tuple[bytes, list[Tensor]]:
    """The header of `message` and its tensors, contiguous, in payload order."""
    flags = mark = epoch = version = 0
    if isinstance(message, Activation):
        kind, tensors, version = _ACTIVATION, [message.h, message.y], message.version
        flags = _TRAIN if message.train else 0
    elif isinstance(message, TargetGradient):
        kind, tensors, version = _TARGET, [message.grad], message.version
    else:
        kind, mark, epoch = _MARK, int(message.kind), message.epoch
        flags = _RETURNING if message.returning else 0
        body = bytearray(json.dumps(message.body).encode())
        tensors = [torch.frombuffer(body, dtype=torch.uint8)]
    tensors = [tensor.contiguous() for tensor in tensors]
    specs = b"".join(_pack_spec(tensor) for tensor in tensors).ljust(MAX_TENSORS * _SPEC.size, b"\0")
    fields = (MAGIC, kind, flags, mark, len(tensors), message.step, version, epoch)
    crc = zlib.crc32(specs, zlib.crc32(_FIXED.pack(*fields, 0)))
    return _FIXED.pack(*fields, crc) + specs, tensors


def decode(header: bytes) -> Header:
    """Check and unpack a header. Raises WireError when it is not one of ours."""
    if len(header) != HEADER_BYTES:
        raise WireError(f"header of {len(header)} bytes where {HEADER_BYTES} were expected")
    magic, kind, flags, mark, count, step, version, epoch, crc = _FIXED.unpack_from(header)
    if magic != MAGIC:
        raise WireError(f"header starts with {magic!r} instead of {MAGIC!r}")
    unsigned = _FIXED.pack(magic, kind, flags, mark, count, step, version, epoch, 0)
    if zlib.crc32(header[_FIXED.size :], zlib.crc32(unsigned)) != crc:
        raise WireError("header is damaged (checksum differs)")
    if count != {_ACTIVATION: 2, _TARGET: 1, _MARK: 1}.get(kind):
        raise WireError(f"message kind {kind} with {count} tensors is unknown")
    specs: list[TensorSpec] = []
    end = 0
    for i in range(count):
        spec = _unpack_spec(header, _FIXED.size + i * _SPEC.size, -(-end // ALIGN) * ALIGN)
        specs.append(spec)
        end = spec.offset + spec.nbytes
    return Header(kind, flags, mark, step, version, epoch, specs)


def assemble(header: Header, tensors: list[Tensor]) -> Message:
    """The message that a header and its tensors (on any device) make."""
    if header.kind == _ACTIVATION:
        h, y = tensors
        return Activation(header.step, header.version, h, y, bool(header.flags & _TRAIN))
    if header.kind == _TARGET:
        return TargetGradient(header.step, header.version, tensors[0])
    try:
        body = json.loads(tensors[0].cpu().numpy().tobytes())
        kind = MarkKind(header.mark)
    except ValueError as error:
        raise WireError(f"mark cannot be read ({error})") from None
    return Mark(kind, header.step, header.epoch, bool(header.flags & _RETURNING), body)


def _pack_spec(tensor: Tensor) -> bytes:
    if tensor.ndim > MAX_DIMS:
        raise WireError(f"tensor of {tensor.ndim} dimensions cannot be sent (at most {MAX_DIMS})")
    if tensor.dtype not in _CODE:
        raise WireError(f"tensor of {tensor.dtype} cannot be sent (use one of {DTYPES})")
    dims = (*tensor.shape, *[0] * (MAX_DIMS - tensor.ndim))
    return _SPEC.pack(_CODE[tensor.dtype], tensor.ndim, *dims)


def _unpack_spec(header: bytes, position: int, offset: int) -> TensorSpec:
    code, ndim, *dims = _SPEC.unpack_from(header, position)
    if code >= len(DTYPES) or ndim > MAX_DIMS or min(dims[:ndim], default=0) < 0:
        raise WireError(f"tensor spec is impossible (dtype {code}, shape {dims[:ndim]})")
    shape = tuple(dims[:ndim])
    return TensorSpec(DTYPES[code], shape, offset, math.prod(shape) * _ITEMSIZE[code])
