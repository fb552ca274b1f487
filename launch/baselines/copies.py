"""The most that the machine gives: as many sequential trainings at once as there are stages, side by side.

    rank 0   batch 0   batch 1   batch 2 ...
    rank 1   batch 0   batch 1   batch 2 ...      they share nothing but the machine

A control, no way to train: every process trains the whole network on all batches, by itself. Its samples
per second count all of them, so its speed-up is what this machine can give to so many busy processes, which
share its memory bandwidth, its clock and its other tenants. No engine that cuts the network can pass it.
"""

from __future__ import annotations

from torch import nn

from launch.baselines.backprop import Backprop
from launch.baselines.loop import run_loop
from launch.rank import Rank
from workers.peers import Peers


class Copy(Backprop):
    """One of them."""

    def __init__(self, rank: Rank, peers: Peers) -> None:
        super().__init__(rank, peers)
        self.batches_at_once = peers.world


def run(rank: Rank) -> nn.Module | None:
    """Train this copy; rank 0 saves its own."""
    module = run_loop(rank, Copy)
    return module if rank.index == 0 else None
