"""The most that the machine gives: as many sequential trainings at once as there are stages, side by side.

    rank 0   batch 0   batch 1   batch 2 ...
    rank 1   batch 0   batch 1   batch 2 ...      they share nothing but the machine

A control, no way to train: every process trains the whole network on all batches, by itself. Its samples
per second count all of them, so its speed-up is what this machine can give to so many busy processes, which
share its memory bandwidth, its clock and its other tenants. No engine that cuts the network can pass it.
"""

from __future__ import annotations

from torch import nn

from launch.engines.backprop import Backprop
from launch.engines.baseline_loop import run_loop
from launch.job.context import RankContext
from launch.report.recorder import Recorder
from workers.coordination.collectives import Peers


class Copy(Backprop):
    """One of them."""

    def __init__(self, context: RankContext, peers: Peers) -> None:
        super().__init__(context, peers)
        self.batches_at_once = peers.world


def run(context: RankContext, recorder: Recorder | None) -> nn.Module | None:
    """Train this copy; rank 0 saves its own."""
    module = run_loop(context, recorder, Copy)
    return module if context.index == 0 else None
