"""How the network is cut into stages, and how many batches are under way between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dni_async.errors import UserError
from launch.config.checks import at_least
from launch.config.flat import Group
from workers.transport.base import MAX_CAPACITY
from workers.transport.in_flight import WITHIN_A_HOST

MOST_STAGES = 1024
"""Processes on one machine; more are a mistyped number."""


@dataclass(kw_only=True, slots=True)
class PipelineConfig(Group):
    """How many batches are under way between the stages."""

    micro_batches: int = 0
    """Of gpipe, 1f1b and zb, per batch; 0 takes the fastest of several counts (with `deterministic` the
    most)."""
    in_flight: int | Literal["auto"] = "auto"
    """Batches that may be between two neighbouring stages; auto: 4 within a host, and between hosts 4 and one
    for every step that fits into the longest round trip (always 4 with --deterministic)."""
    target_every: int = 1
    """One batch in so many sends true gradients upstream, under rules dni and cdni; the others save the stage
    below a product and the SG network an update."""
    stash: int | None = None
    """Batches that may wait in a stage for their gradient, under rule delayed; by default the stages from
    it to the loss, itself included."""

    def __post_init__(self) -> None:
        at_least(1, stash=self.stash, in_flight=self.capacity, target_every=self.target_every)
        at_least(0, micro_batches=self.micro_batches)
        if self.capacity > MAX_CAPACITY:
            raise UserError(f"in-flight is {self.in_flight}; it must be at most {MAX_CAPACITY}")

    @property
    def capacity(self) -> int:
        """Messages in flight per channel; of auto, those within a host."""
        return WITHIN_A_HOST if self.in_flight == "auto" else self.in_flight

    def stash_of(self, index: int, stages: int) -> int:
        """Return how many batches may wait in stage `index` of so many, under rule delayed."""
        return self.stash or stages - index


@dataclass(kw_only=True, slots=True)
class PartitionConfig(PipelineConfig):
    """How the network is cut into stages, and how many batches are under way between them."""

    stages: int = 0
    """Processes to start on this machine; 0: as many as torchrun started, or 1 (in comparisons 2)."""
    cut: str = ""
    """First layer of every stage but the first, such as 2,4; by default cut by measured cost
    (with --deterministic and on emulated devices by FLOPs)."""

    def __post_init__(self) -> None:
        PipelineConfig.__post_init__(self)
        at_least(0, stages=self.stages)
        if self.stages > MOST_STAGES:
            raise UserError(f"stages is {self.stages}; it must be at most {MOST_STAGES}")
        self.cut_layers()

    def cut_layers(self) -> list[int] | None:
        """Return the cut as numbers; None when it is to be found."""
        if not self.cut:
            return None
        try:
            cut = [int(part) for part in self.cut.split(",")]
        except ValueError:
            raise UserError(f"cut is {self.cut}; write layer numbers with commas, such as 2,4") from None
        if sorted(set(cut)) != cut or cut[0] < 1:
            raise UserError(f"cut is {self.cut}; layer numbers must increase and start at 1 or more")
        return cut
