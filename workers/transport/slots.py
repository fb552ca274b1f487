"""Shared memory that two processes see and no file system does: a sealed memfd, mapped by both.

    sender                                      receiver
    Slot.create(size)   --descriptor (once)-->  Slot.attach(descriptor)
    slot.view(spec).copy_(tensor)               slot.view(spec)

The kernel frees it when the last mapping goes, also after a crash. A tensor keeps its mapping alive, so
a slot that was replaced by a larger one can still be read by those who hold a view of it.
"""

from __future__ import annotations

import fcntl
import mmap
import os

import torch
from torch import Tensor

from workers.transport.base import TransportError
from workers.transport.wire import Specs, TensorSpec

PAGE = mmap.PAGESIZE
_SEAL = fcntl.F_SEAL_SHRINK
"""A mapping of a file that shrinks ends the process (SIGBUS); a sealed file cannot."""


class Slot:
    """One piece of shared memory. `pin` registers it with CUDA, where there is CUDA."""

    def __init__(self, descriptor: int, size: int, pin: bool = False) -> None:
        self.size = size
        self.descriptor = descriptor
        """The memfd until it was passed on (`forget_descriptor`), then -1; the mapping stays."""
        self._map = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._specs: Specs = ()
        self._places: list[Tensor] = []
        self._pinned = pin and torch.cuda.is_available() and self._register()

    @classmethod
    def create(cls, size: int, pin: bool = False) -> Slot:
        """New memory of at least `size` bytes. Raises TransportError when there is none."""
        return cls.within(cls.reserve(), size, pin)

    @staticmethod
    def reserve() -> int:
        """A descriptor for `within`, of memory without a size yet."""
        descriptor = os.memfd_create("dni_async slot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(descriptor, 0o600)  # a memfd is made for everybody who can get hold of it
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEAL)
        return descriptor

    @classmethod
    def within(cls, descriptor: int, size: int, pin: bool = False) -> Slot:
        """Memory of at least `size` bytes, which grows if it is smaller; takes the descriptor over.

        Raises TransportError when there is none.
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
            slot = cls(descriptor, os.fstat(descriptor).st_size, pin)
        except (OSError, ValueError) as error:
            raise TransportError(f"the peer passed a file that is not a slot ({error})") from None
        finally:
            os.close(descriptor)
        slot.descriptor = -1
        return slot

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

    def lend(self, specs: Specs) -> list[Tensor]:
        """The views of one message, for a receiver who may do with them what he likes."""
        return [place.detach() for place in self.places(specs)]

    def places(self, specs: Specs) -> list[Tensor]:
        """The views of one message, kept for the next message with the same specs (making one takes as long
        as a system call); for the sender, and whoever hands out none of them."""
        if specs != self._specs:
            with torch.inference_mode(False):  # or the views could not be written to outside of it
                self._specs, self._places = specs, [self.view(spec) for spec in specs]
        return self._places

    def forget_descriptor(self) -> None:
        """Close the memfd: the peer has it, and the mapping does not need it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def drop(self) -> None:
        """Give the slot back, as soon as no tensor views it. May be called twice."""
        self.forget_descriptor()
        self._specs, self._places = (), []
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._address())
            self._pinned = False

    def _register(self) -> bool:
        return int(torch.cuda.cudart().cudaHostRegister(self._address(), self.size, 0)) == 0

    def _address(self) -> int:
        return torch.frombuffer(self._map, dtype=torch.uint8, count=1).data_ptr()
