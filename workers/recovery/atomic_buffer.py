"""Bytes that survive their writer, whenever it is killed.

    write(1, "a")    half 1
    write(2, "b")    half 0      killed in the middle: it is damaged, and version 1 stands
    write(3, "c")    half 1

The memory belongs to whoever made the cell before it forked the writer; no file system sees it.
"""

from __future__ import annotations

import os
import struct
import zlib

_SIGNED = struct.Struct("<QQ")
"""Version, number of bytes."""
_CRC = struct.Struct("<I")
"""Of both and of the bytes, which follow."""
_HEAD = _SIGNED.size + _CRC.size


class AtomicBuffer:
    """Two halves that are written in turn; the newest that is whole counts."""

    def __init__(self) -> None:
        self._halves = [os.memfd_create("dni_async cell", os.MFD_CLOEXEC) for _ in range(2)]
        for half in self._halves:
            os.fchmod(half, 0o600)  # a memfd is made for everybody who can get hold of it

    def write(self, version: int, data: bytes) -> None:
        """Keep this beside the version before; from 1 on."""
        signed = _SIGNED.pack(version, len(data))
        whole = signed + _CRC.pack(zlib.crc32(data, zlib.crc32(signed))) + data
        done = 0
        while done < len(whole):
            done += os.pwrite(self._halves[version % 2], memoryview(whole)[done:], done)

    def newest(self) -> tuple[int, bytes]:
        """Version and bytes of the last write that was finished; (0, b"") before the first."""
        return max(self._read(0), self._read(1), key=lambda kept: kept[0])

    def read(self, version: int) -> bytes:
        """The bytes of that version, whatever became of the write of the next."""
        kept, data = self._read(version % 2)
        assert kept == version, f"version {version} is kept no more"
        return data

    def close(self) -> None:
        """Give the memory back. May be called twice."""
        while self._halves:
            os.close(self._halves.pop())

    def _read(self, half: int) -> tuple[int, bytes]:
        descriptor = self._halves[half]
        kept = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        if len(kept) < _HEAD:
            return 0, b""
        version, size = _SIGNED.unpack_from(kept)
        data = kept[_HEAD : _HEAD + size]
        crc = zlib.crc32(data, zlib.crc32(kept[: _SIGNED.size]))
        return (version, data) if _CRC.unpack_from(kept, _SIGNED.size)[0] == crc else (0, b"")
