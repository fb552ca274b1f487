"""On what a job runs, and how its processes talk to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dni_async.errors import UserError
from launch.config.checks import at_least, one_of, positive
from launch.config.flat import Group
from workers.runtime.precision import PRECISIONS
from workers.transport.compression import WireFormat
from workers.transport.registry import check_encryption, check_transports


@dataclass(kw_only=True, slots=True)
class DeviceConfig(Group):
    """On what a process computes."""

    device: Literal["cpu", "cuda"] = "cpu"
    """cpu or cuda."""
    threads: int = 1
    """Threads per process; 0 takes its share of the cores. In comparisons backprop has those of one stage."""

    def __post_init__(self) -> None:
        at_least(0, threads=self.threads)
        one_of("device", self.device, ("cpu", "cuda"))


@dataclass(kw_only=True, slots=True)
class LinkedConfig(DeviceConfig):
    """On what the processes compute, and how they talk to each other."""

    transport: str = "auto"
    """auto, shm, tcp, tls, dist, nccl, rpc or the dotted path of your own; several, one per link, with
    commas. Auto: shm within a host, else tcp (tls where links are encrypted)."""
    trust_network: bool = False
    """Allow --transport rpc, by which anybody who reaches a rank's port can run code in it."""
    timeout: float = 60.0
    """Seconds that any wait may last."""
    port: int = 0
    """Rendezvous port of a job started here (not by torchrun); 0 finds a free one."""
    deterministic: bool = False
    """Lock-step delivery: the same command gives the same weights, bit for bit (costs speed)."""
    emulate_gflops: float | None = None
    """Emulate devices of so many GFLOP/s: faster compute sleeps; learning and messages stay real."""

    def __post_init__(self) -> None:
        DeviceConfig.__post_init__(self)
        positive(timeout=self.timeout, emulate_gflops=self.emulate_gflops)
        if not 0.01 <= self.timeout <= 1e6:
            raise UserError(f"timeout is {self.timeout:g}; it must be 0.01 to 1,000,000 seconds")
        if not 0 <= self.port < 65536:
            raise UserError(f"port is {self.port}; it must be 0 to 65535")
        check_transports(self.transport, trust_network=self.trust_network)
        if self.emulate_gflops and self.device != "cpu":
            raise UserError(f"device {self.device} cannot emulate others; use --device cpu")


@dataclass(kw_only=True, slots=True)
class RuntimeConfig(LinkedConfig):
    """On what the processes compute, in which way, and how they talk to each other."""

    wire: WireFormat = "fp32"
    """Activations and target gradients on their way between stages: fp32 (as they are), bf16, or int8 with a
    scale for each sample."""
    encrypt: bool = False
    """Encrypt the links between hosts (TLS 1.3), for stages that learn by a rule. Needs the package
    cryptography and, under torchrun, DNI_ASYNC_JOB_SECRET."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """fp32, bf16 (layers and loss under torch.autocast) or fp16 (layers under autocast, gradients scaled);
    weights, optimizer and SG networks stay in fp32."""
    tf32: bool = False
    """Let a GPU multiply fp32 matrices in TF32: faster, with 10 bits of mantissa in place of 23."""
    compile: bool = False
    """Run layers through torch.compile, before the clock starts: half a minute and more for every process."""

    def __post_init__(self) -> None:
        LinkedConfig.__post_init__(self)
        if self.encrypt:
            check_encryption(self.transport)
        one_of("wire", self.wire, get_args(WireFormat))
        one_of("precision", self.precision, PRECISIONS)
        if self.tf32 and self.device == "cpu":
            raise UserError("tf32 is for a GPU; add --device cuda, or leave it out")
        if self.emulate_gflops and self.compile:
            raise UserError("an emulated device is no faster with --compile; leave it out")
