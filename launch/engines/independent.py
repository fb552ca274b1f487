"""A control: as many independent sequential trainings at the same time as there are stages.

    rank 0   batch 0   batch 1   batch 2 ...
    rank 1   batch 0   batch 1   batch 2 ...      they share nothing but the machine

Every process trains the whole network on all batches, by itself. Samples per second are those of all
processes together, so the speed-up is the most that this machine allows so many busy processes, which share
its memory bandwidth and its clock. No engine that cuts the network can exceed it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from typing_extensions import override

from dni_async.messages import EVALUATIONS, Marker, Message
from launch.engines.backprop import Backprop
from launch.engines.baseline_loop import run_loop
from launch.job.context import RankContext
from launch.report.recorder import Recorder
from workers.coordination.collectives import Peers


class IndependentTraining(Backprop):
    """One of the independent trainings, whose results meet in the evaluations only."""

    def __init__(self, context: RankContext, peers: Peers) -> None:
        super().__init__(context, peers)
        self.batches_at_once = peers.world

    @override
    def on(self, message: Message, report: Callable[[Marker], None], enough: Callable[[], bool]) -> None:
        meets = isinstance(message, Marker) and message.kind in EVALUATIONS
        if meets and self.joint_stop.is_due_before_meeting(self.steps):
            self.stopped = True
        else:
            super().on(message, report, enough)


def run(context: RankContext, recorder: Recorder | None) -> nn.Module | None:
    """Train independently of the other ranks; rank 0 saves its weights."""
    module = run_loop(context, recorder, IndependentTraining)
    return module if context.index == 0 else None
