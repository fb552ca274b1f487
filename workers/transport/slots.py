"""Shared memory that two processes see and no file system does: a sealed memfd, mapped by both.

    sender                                      receiver
    Slot.create(size)   --descriptor (once)-->  Slot.attach(descriptor)
    slot.view(spec).copy_(tensor)               slot.view(spec)

The kernel frees it with the last mapping, also after a crash. A tensor keeps its mapping alive, so a slot
that was replaced by a larger one can still be read through tensors that view it.

A receiver's module may hold on to its input (a cache, a hook, a list of activations). Then, before the sender
writes to the slot again, `leave_to_holders` puts a private copy of the memory at the same address:

    tensor ──► address ──► shared memory               tensor ──► address ──► private copy
                                          release ──►
    next message ──► (the same)                        next message ──► new address ──► shared memory
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from functools import cache

import torch
from torch import Tensor

from workers.runtime.cuda import current_accelerator
from workers.transport.base import TransportError
from workers.transport.wire import Specs, TensorSpec

PAGE = mmap.PAGESIZE
_SEAL = fcntl.F_SEAL_SHRINK
"""A process that reads a mapping of a file that shrank is killed (SIGBUS); a sealed file cannot shrink."""
_MAP_FIXED = 0x10
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2


class Slot:
    """One piece of shared memory. `pin` registers it with the device of this process, where there is one."""

    def __init__(self, descriptor: int, size: int, pin: bool = False) -> None:
        self.size = size
        self.descriptor = descriptor
        """The memfd; -1 once the sender has passed it on (`forget_descriptor`). The mapping stays."""
        self._map = self._mapped()
        self._specs: Specs = ()
        self._places: list[Tensor] = []
        self._storages: list[tuple[int, int]] = []
        """Of each place: its storage, and the number of references to it as long as nobody else holds it."""
        self._accelerator = current_accelerator() if pin else None
        self.pinned = self._register()
        """Whether the device of this process copies from and to this memory without a detour."""

    @classmethod
    def create(cls, size: int, pin: bool = False) -> Slot:
        """New memory of at least `size` bytes. Raises TransportError if there is none."""
        return cls.within(cls.reserve(), size, pin)

    @staticmethod
    def reserve() -> int:
        """A descriptor for `within`, of memory without a size yet."""
        descriptor = os.memfd_create("dni_async slot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(descriptor, 0o600)  # by default, any user who gets hold of a memfd may open it
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEAL)
        return descriptor

    @classmethod
    def within(cls, descriptor: int, size: int, pin: bool = False) -> Slot:
        """Memory of at least `size` bytes in `descriptor`, which grows if needed; takes the descriptor over.

        Raises TransportError if there is no such memory.
        """
        try:
            size = max(-(-max(size, 1) // PAGE) * PAGE, os.fstat(descriptor).st_size)
            os.ftruncate(descriptor, size)
            return cls(descriptor, size, pin)
        except OSError as error:
            os.close(descriptor)
            raise TransportError(f"no shared memory slot of {size} bytes ({error})") from None

    @classmethod
    def attach(cls, descriptor: int, pin: bool = False) -> Slot:
        """Map what the peer passed; takes the descriptor over. Raises TransportError if it is not a slot."""
        try:
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEAL != _SEAL:
                raise TransportError("the peer passed a memory file that is not sealed")
            return cls(descriptor, os.fstat(descriptor).st_size, pin)
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise TransportError(f"the peer passed a file that is not a slot ({error})") from None
        except TransportError:
            os.close(descriptor)
            raise

    def view(self, spec: TensorSpec) -> Tensor:
        """A tensor of shape `spec.shape` in the slot, not copied. The spec must fit into it."""
        if not spec.nbytes:
            return torch.empty(spec.shape, dtype=spec.dtype)  # frombuffer refuses a count of 0
        count = spec.nbytes // spec.dtype.itemsize
        flat = torch.frombuffer(self._map, dtype=spec.dtype, count=count, offset=spec.offset)
        return flat if len(spec.shape) == 1 else flat.view(spec.shape)

    def memory(self, nbytes: int) -> memoryview:
        """The first `nbytes` bytes, to read or to write."""
        return memoryview(self._map)[:nbytes]

    def places(self, specs: Specs) -> list[Tensor]:
        """The views of one message, for the sender. They are cached: making one takes as long as a system
        call."""
        if specs != self._specs:
            with torch.inference_mode(False):  # or the views could not be written to outside of it
                self._specs, self._places = specs, [self.view(spec) for spec in specs]
            addresses = [place.untyped_storage()._cdata for place in self._places]
            self._storages = [(address, torch._C._storage_Use_Count(address)) for address in addresses]
        return self._places

    def lend(self, specs: Specs) -> list[Tensor]:
        """The views of one message, for a receiver that may do with the tensor objects what it likes."""
        return [place.detach() for place in self.places(specs)]

    def is_referenced(self) -> bool:
        """Whether a lent tensor, or a view of one, still exists."""
        return any([torch._C._storage_Use_Count(storage) > count for storage, count in self._storages])

    def leave_to_holders(self) -> None:
        """Give the tensors that view this slot a private copy of its memory, at the same address."""
        self._unregister()
        try:
            _make_private(_address(self._map), self.size)
            self._specs, self._places, self._storages = (), [], []
            self._map = self._mapped()
        except OSError as error:
            raise TransportError(f"a slot could not be copied ({error})") from None
        self.pinned = self._register()

    def forget_descriptor(self) -> None:
        """Close the memfd: the peer has it, and the mapping does not need it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def close(self) -> None:
        """Free the slot as soon as no tensor views it. May be called twice."""
        self.forget_descriptor()
        self._specs, self._places, self._storages = (), [], []
        self._unregister()

    def _mapped(self) -> mmap.mmap:
        """Map the slot in the place of nameless memory: an `mmap` of the file itself would keep a descriptor
        open for as long as a tensor views it, and a module may keep thousands."""
        mapping = mmap.mmap(-1, self.size)
        _map(_address(mapping), self.size, _MAP_FIXED | mmap.MAP_SHARED | mmap.MAP_POPULATE, self.descriptor)
        return mapping

    def _register(self) -> bool:
        return self._accelerator is not None and self._accelerator.pin(_address(self._map), self.size)

    def _unregister(self) -> None:
        if self._accelerator is not None and self.pinned:
            self._accelerator.unpin(_address(self._map))
        self.pinned = False


def _address(mapping: mmap.mmap) -> int:
    return torch.frombuffer(mapping, dtype=torch.uint8, count=1).data_ptr()


def _make_private(address: int, size: int) -> None:
    """Replace the shared mapping at `address` by a private copy of it, in one step."""
    copy = _map(None, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    ctypes.memmove(copy, address, size)
    if _libc().mremap(copy, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, address) != address:
        raise _error()


def _map(address: int | None, size: int, flags: int, descriptor: int) -> int:
    """mmap(2), to read and to write; returns the address. Raises OSError."""
    mapped = _libc().mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0)
    if mapped in (None, ctypes.c_void_p(-1).value):
        raise _error()
    return int(mapped)


def _error() -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, length = ctypes.c_void_p, ctypes.c_size_t
    libc.mmap.argtypes = [pointer, length, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mremap.argtypes = [pointer, length, length, ctypes.c_int, pointer]
    libc.mmap.restype = libc.mremap.restype = pointer
    return libc
