"""The job as its ranks read it: a pickle, and beside it the large data that the task holds.

    16 bytes    where the pickle begins, and its length
    ...         tensors and arrays of a megabyte or more, as they lie in memory
    pickle      configuration and task, which refer to them

A rank maps the file, so all ranks share one copy of the data until they write to it, and a rank that never
reads them holds none.
"""

from __future__ import annotations

import io
import mmap
import pickle
import struct
from pathlib import Path
from typing import IO, Any

import cloudpickle
import torch
from torch.storage import TypedStorage, UntypedStorage
from typing_extensions import override

LARGE = 2**20
"""Bytes from which data lie beside the pickle."""
_ALIGNMENT = 64
_HEADER = struct.Struct("<QQ")

Place = tuple[int, int]
"""Offset and length of data in the file."""


def write_job(path: Path, job: Any) -> None:
    """Write a job to a file."""
    with open(path, "r+b") as file:
        file.seek(_HEADER.size)
        pickled = io.BytesIO()
        pickler = _Pickler(pickled, file)
        pickler.dump(job)
        content = pickle.dumps((pickler.arrays, pickled.getvalue()))
        start, length = _append(file, memoryview(content))
        file.seek(0)
        file.write(_HEADER.pack(start, length))


def read_job(path: Path) -> Any:
    """Return the job that `write_job` has written; large data change in this process only."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start, length = _HEADER.unpack_from(mapped)
    arrays, pickled = pickle.loads(mapped[start : start + length])
    return _Unpickler(pickled, mapped, arrays).load()


class _Pickler(cloudpickle.CloudPickler):
    """Writes large storages of tensors, and large buffers of arrays, to a file."""

    def __init__(self, pickled: io.BytesIO, file: IO[bytes]) -> None:
        super().__init__(pickled, protocol=5, buffer_callback=self._is_small)
        self._file = file
        self._places: dict[int, tuple[Place, UntypedStorage]] = {}
        """By the address of a storage, which tensors may share; it stays alive, so that no other gets it."""
        self.arrays: list[Place] = []

    def _is_small(self, buffer: pickle.PickleBuffer) -> bool:
        data = buffer.raw()
        if data.nbytes < LARGE:
            return True
        self.arrays.append(_append(self._file, data))
        return False

    @override
    def persistent_id(self, obj: Any) -> tuple[torch.dtype, Place] | None:
        storage = obj._untyped_storage if isinstance(obj, TypedStorage) else None
        if storage is None or storage.device.type != "cpu" or storage.nbytes() < LARGE:
            return None
        address = storage.data_ptr()
        if address not in self._places:
            rows = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
            self._places[address] = _append(self._file, rows.data), storage
        return obj.dtype, self._places[address][0]


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, mapped: mmap.mmap, arrays: list[Place]) -> None:
        buffers = [memoryview(mapped)[start : start + length] for start, length in arrays]
        super().__init__(io.BytesIO(pickled), buffers=buffers)
        self._mapped = mapped
        self._storages: dict[Place, UntypedStorage] = {}

    @override
    def persistent_load(self, pid: tuple[torch.dtype, Place]) -> TypedStorage:
        dtype, place = pid
        if place not in self._storages:
            rows = torch.frombuffer(self._mapped, dtype=torch.uint8, offset=place[0], count=place[1])
            self._storages[place] = rows.untyped_storage()
        return TypedStorage(wrap_storage=self._storages[place], dtype=dtype, _internal=True)


def _append(file: IO[bytes], data: memoryview) -> Place:
    """Write data to the end of what was written; return where they lie."""
    file.seek(-file.tell() % _ALIGNMENT, io.SEEK_CUR)
    start = file.tell()
    file.write(data)
    return start, data.nbytes
