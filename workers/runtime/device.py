"""Where a stage runs: device, threads and cores."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from dni_async.errors import UserError


@dataclass(slots=True)
class Placement:
    """Device, threads and cores of one rank."""

    device: torch.device
    threads: int
    cores: list[int]
    """CPU cores that the process is bound to; empty where the system cannot bind."""
    alone: bool = False
    """Whether no other rank of this host is bound to these cores."""

    def describe(self) -> dict[str, Any]:
        """Return the fields for summary.json."""
        return asdict(self) | {"device": str(self.device)}


def share_of_cores(cores: list[int], rank: int, ranks: int) -> list[int]:
    """The cores of one of `ranks` processes: equal runs of neighbours, or one each in turn.

    cores 0 1 2 3 4    2 ranks: [0 1] [2 3]     more ranks than cores: rank r gets core r mod 5
    """
    each = len(cores) // ranks
    return cores[rank * each : (rank + 1) * each] if each else [cores[rank % len(cores)]]


def physical_cores() -> int:
    """Cores that this process may use; two threads of one core count once, where the system tells."""
    process = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        return psutil.cpu_count(logical=False) or 1
    return len({_siblings(cpu) for cpu in process.cpu_affinity()})


def _siblings(cpu: int) -> str:
    """The CPUs that share a core with `cpu`."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def place(device: str, threads: int, local_rank: int, local_world: int) -> Placement:
    """Bind this process to its share of the machine.

    threads: torch threads; 0 takes one per core of the share. Raises UserError when CUDA was asked
    for and there is none.
    """
    process = psutil.Process()
    cores: list[int] = []
    alone = False
    if hasattr(process, "cpu_affinity"):
        every = sorted(process.cpu_affinity())
        cores = share_of_cores(every, local_rank, local_world)
        if not threads or threads <= len(cores):
            process.cpu_affinity(cores)
            alone = local_world <= len(every)
        else:
            cores = every
    threads = threads or max(1, len(cores))
    torch.set_num_threads(threads)
    return Placement(pick_device(device, local_rank), threads, cores, alone)


def make_deterministic(device: str) -> None:
    """Have a GPU compute the same from the same, bit for bit: torch raises an error where it cannot. To be
    called before anything is computed."""
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def allow_tf32(device: str) -> None:
    """Let a GPU multiply fp32 matrices with 10 bits of mantissa, which is several times as fast."""
    if device == "cuda":
        torch.set_float32_matmul_precision("high")


def pick_device(device: str, local_rank: int) -> torch.device:
    """The CPU, or the GPU of this rank; if there are fewer GPUs than ranks, ranks share them."""
    if device == "cpu":
        return torch.device("cpu")
    if device != "cuda":
        raise UserError(f"unknown device ({device}); use cpu or cuda")
    if not torch.cuda.is_available():
        raise UserError("device cuda was asked for and torch sees none here; use --device cpu")
    chosen = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(chosen)
    return chosen
