"""Sequential backprop in one process: the textbook loop. `backprop-all` is the same with all cores."""

from __future__ import annotations

from typing import Any

from torch import nn
from typing_extensions import override

from launch.engines.baseline_loop import Loop, run_loop
from launch.job.context import RankContext
from launch.job.layers import build_layers
from launch.report.recorder import Recorder
from workers.coordination.collectives import Peers


class Backprop(Loop):
    """Forward, backward, update."""

    def __init__(self, context: RankContext, peers: Peers) -> None:
        layers = build_layers(context.task, context.config.task, context.plan.steps_per_epoch)
        super().__init__(context, peers, layers)

    @override
    def step(self, x: Any, y: Any) -> None:
        loss = self.loss(self.forward(x), y)
        self.rule.count(loss, y)
        self.probe.mark("forward")
        self.updater.scaled(loss).backward()
        self.probe.mark("backward")
        self.updater.step()
        self.probe.mark("update")

    def forward(self, x: Any) -> Any:
        """Return the output for a batch, with autograd."""
        return self.module(x)

    @override
    def evaluate(self, x: Any, y: Any) -> None:
        self.rule.evaluate(self.module(x), y)
        self.probe.mark("evaluate")


def run(context: RankContext, recorder: Recorder | None) -> nn.Module:
    """Train the whole network in this process by backpropagation, and return its layers."""
    return run_loop(context, recorder, Backprop)
