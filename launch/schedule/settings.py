"""Settings of a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from dni_async.checks import at_least
from dni_async.errors import UserError
from dni_async.networks.settings import LocalConfig, SGConfig
from dni_async.rules.oracle import OracleRule
from dni_async.rules.registry import find_rule
from workers.transport.base import MAX_CAPACITY
from workers.transport.registry import check_transports

TRANSPORTS = ("auto", "shm", "tcp")
"""Those that need nothing but a store."""


@dataclass(kw_only=True, slots=True)
class ScheduleSettings:
    """What `ScheduleDNI` takes beside stage, loss and optimizer; the same on all ranks."""

    rule: str = "cdni"
    """How a stage gets its gradient: cdni, dni, local, delayed, frozen or the dotted path of your own."""
    in_flight: int = 4
    """Batches that may be between two neighbouring stages."""
    timeout: float = 60.0
    """Seconds that any wait for another rank may last."""
    transport: str = "auto"
    """auto (shm within a host, else tcp), shm or tcp."""
    clip_norm: float | None = None
    """Clip the norm of this stage's gradient to this."""
    accumulate: int = 1
    """Batches whose mean gradient makes one update."""
    ema: float | None = None
    """`eval` uses an exponential moving average of the weights with this decay; `state_dict` has both."""
    target_every: int = 1
    """One batch in so many sends its target gradient upstream (rules dni and cdni)."""
    stash: int | None = None
    """Batches that may wait for their gradient (rule delayed); by default the stages from it to the loss."""
    classes: int | None = None
    """Classes of integer labels; by default the size of the output's dimension that the labels lack."""
    condition: Callable[[Tensor], Tensor] | None = None
    """y (B, ...) -> (B, C) floats, the labels as rule cdni sees them; by default one-hot, or y as it is."""
    ignore_index: int | None = None
    """The integer label, such as that of padding, that the loss leaves out."""
    sg: SGConfig = field(default_factory=SGConfig)
    """Of the SG network."""
    local: LocalConfig = field(default_factory=LocalConfig)
    """Of the auxiliary head (rule local)."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do with a batch with NaN or infinite values."""
    deterministic: bool = False
    """Handle targets at fixed steps, so that the same run gives the same weights to the bit."""
    seed: int = 0
    """Of the initial weights of SG networks and auxiliary heads."""

    def __post_init__(self) -> None:
        for name in ("in_flight", "accumulate", "target_every", "stash", "classes"):
            if (value := getattr(self, name)) is not None:
                at_least(1, **{name: value})
        for name in ("timeout", "clip_norm"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise UserError(f"{name} is {value}; it must be positive and finite")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UserError(f"ema is {self.ema}; it must be a decay from 0 to below 1")
        if self.on_nonfinite not in ("stop", "skip"):
            raise UserError(f"on_nonfinite is {self.on_nonfinite}; use stop or skip")
        if self.in_flight > MAX_CAPACITY:
            raise UserError(f"in_flight is {self.in_flight}; it must be at most {MAX_CAPACITY}")
        if {"dist", "nccl", "rpc", "tls"}.intersection(self.transport.split(",")):
            raise UserError(f"transport is {self.transport}; ScheduleDNI takes {', '.join(TRANSPORTS)}")
        check_transports(self.transport, trust_network=False)
        if issubclass(find_rule(self.rule), OracleRule):
            raise UserError(
                f"rule {self.rule} copies the layers downstream, which are in other processes here; use "
                "it in launch.train"
            )
