"""A versioned buffer whose writer may be killed at any moment.

    write(1, "a")    half 1
    write(2, "b")    half 0      killed in the middle: half 0 is damaged, and version 1 is the newest
    write(3, "c")    half 1

The memory belongs to the process that created the buffer before it forked the writer; it is in no file
system.
"""

from __future__ import annotations

import os
import struct
import zlib

_VERSION_SIZE = struct.Struct("<QQ")
"""Version, number of bytes."""
_CRC = struct.Struct("<I")
"""CRC-32 of version, size and bytes."""
_HEADER_BYTES = _VERSION_SIZE.size + _CRC.size


class AtomicBuffer:
    """Two halves that are written in turn; the newest whole one is the content."""

    def __init__(self) -> None:
        self._halves = [os.memfd_create("dni_async atomic buffer", os.MFD_CLOEXEC) for _ in range(2)]
        for half in self._halves:
            os.fchmod(half, 0o600)  # by default, any user who gets hold of a memfd may open it

    def write(self, version: int, data: bytes) -> None:
        """Write `data` as this version (from 1 on); the version before stays readable."""
        prefix = _VERSION_SIZE.pack(version, len(data))
        record = memoryview(prefix + _CRC.pack(zlib.crc32(data, zlib.crc32(prefix))) + data)
        done = 0
        while done < len(record):
            done += os.pwrite(self._halves[version % 2], record[done:], done)

    def newest(self) -> tuple[int, bytes]:
        """Version and bytes of the last write that was finished; (0, b"") before the first."""
        return max(self._read(0), self._read(1), key=lambda record: record[0])

    def read(self, version: int) -> bytes:
        """The bytes of that version, even if the write of the next was interrupted."""
        stored, data = self._read(version % 2)
        assert stored == version, f"version {version} was overwritten"
        return data

    def close(self) -> None:
        """Free the memory. May be called twice."""
        while self._halves:
            os.close(self._halves.pop())

    def _read(self, half: int) -> tuple[int, bytes]:
        descriptor = self._halves[half]
        record = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        if len(record) < _HEADER_BYTES:
            return 0, b""
        version, size = _VERSION_SIZE.unpack_from(record)
        data = record[_HEADER_BYTES : _HEADER_BYTES + size]
        crc = zlib.crc32(data, zlib.crc32(record[: _VERSION_SIZE.size]))
        return (version, data) if _CRC.unpack_from(record, _VERSION_SIZE.size)[0] == crc else (0, b"")
