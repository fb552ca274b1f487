"""A GPU as an accelerator, by torch.cuda."""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from workers.runtime.accelerator import Accelerator, Stream, TimedEvent


class CudaAccelerator(Accelerator):
    """A GPU, by torch.cuda."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    @override
    def holds(self, tensor: Tensor) -> bool:
        return tensor.device == self.device

    @override
    def new_stream(self) -> Stream:
        return torch.cuda.Stream(self.device)

    @override
    def current_stream(self) -> Stream:
        return torch.cuda.current_stream(self.device)

    @override
    def compute_stream(self) -> Stream:
        return torch.cuda.default_stream(self.device)

    @override
    def use(self, stream: Stream) -> AbstractContextManager[object]:
        assert isinstance(stream, torch.cuda.Stream)
        return torch.cuda.stream(stream)

    @override
    def record_use(self, tensor: Tensor, stream: Stream) -> None:
        assert isinstance(stream, torch.cuda.Stream)
        tensor.record_stream(stream)

    @override
    def copy(self, place: Tensor, tensor: Tensor) -> None:
        place.copy_(tensor, non_blocking=True)

    @override
    def bring(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    @override
    def host_buffer(self, count: int) -> Tensor:
        return torch.empty(count, pin_memory=True)

    @override
    def timer(self) -> TimedEvent:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    @override
    def enter_thread(self) -> None:
        torch.cuda.set_device(self.device)

    @override
    def pin(self, address: int, size: int) -> bool:
        if int(torch.cuda.cudart().cudaHostRegister(address, size, 0)) == 0:
            return True
        self._clear_error()
        return False

    @override
    def unpin(self, address: int) -> None:
        if int(torch.cuda.cudart().cudaHostUnregister(address)) != 0:
            self._clear_error()

    @override
    def identity(self) -> str:
        return str(torch.cuda.get_device_properties(self.device).uuid)

    @override
    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info(self.device)[0]

    @override
    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)

    def _clear_error(self) -> None:
        """Forget the error of a call to the CUDA runtime, which the next kernel would report as its own.

        torch has no `cudaGetLastError`; the check behind the launch of a kernel calls it.
        """
        with suppress(RuntimeError):
            torch.empty(1, device=self.device).fill_(0.0)


@functools.cache
def accelerator_of(device: torch.device) -> Accelerator | None:
    """Return the accelerator of a device; None for a device that works while the host waits, as the CPU."""
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return CudaAccelerator(torch.device("cuda", index))


def current_accelerator() -> Accelerator | None:
    """Return the accelerator of this process's current device; None where there is none."""
    return accelerator_of(torch.device("cuda")) if torch.cuda.is_available() else None


def is_mps_running() -> bool:
    """Whether NVIDIA's Multi-Process Service runs, without which processes on one GPU compute in turn."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()
