"""What a GPU is asked for through torch.cuda, which is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from workers.runtime.cuda import CudaAccelerator, accelerator_of, current_accelerator, is_mps_running

GPU = torch.device("cuda", 0)


class Runtime:
    """The CUDA runtime: a call that fails leaves an error, which the next kernel reports."""

    def __init__(self, status: int) -> None:
        self.status, self.error = status, 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.error = self.status
        return self.status

    def cudaHostUnregister(self, address: int) -> int:
        self.error = self.status
        return self.status

    def launch(self, *size: int, device: torch.device) -> SimpleNamespace:
        """In place of `torch.empty`; `fill_` launches a kernel."""

        def fill(value: float) -> None:
            error, self.error = self.error, 0
            if error:
                raise RuntimeError("CUDA error: out of memory")

        return SimpleNamespace(fill_=fill)


@pytest.mark.parametrize("status", [0, 2])
def test_an_error_of_pinning_is_not_left_to_the_next_kernel(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(status)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch, "empty", runtime.launch)
    assert CudaAccelerator(GPU).pin(4096, 4096) is (status == 0)
    assert runtime.error == 0
    CudaAccelerator(GPU).unpin(4096)
    assert runtime.error == 0


def test_a_gpu_is_known_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="GPU-1f"))
    assert CudaAccelerator(GPU).identity() == "GPU-1f"


def test_the_cpu_is_no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert accelerator_of(torch.device("cpu")) is accelerator_of(torch.device("meta")) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert current_accelerator() is None


def test_mps_runs_where_its_control_daemon_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not is_mps_running()
    (tmp_path / "control").touch()
    assert is_mps_running()


@pytest.mark.gpu
def test_a_kernel_runs_after_pinning_failed() -> None:
    gpu = CudaAccelerator(GPU)
    assert not gpu.pin(0, 0)  # not memory
    assert torch.ones(3, device=GPU).sum().item() == 3.0


@pytest.mark.gpu
def test_a_gpu_has_a_uuid() -> None:
    assert len(CudaAccelerator(GPU).identity()) > 8
