"""What the baselines share: the loop over batches, timed and reported like a stage's.

    every rank    batch ─ step ─ batch ─ step ─ ... ─ test set ─┐ EPOCH: gather; rank 0 reports, broadcasts
                  batch ─ step ─ ...                            ┘ the loss and whether to stop

The stream of messages, the markers for the record, the initial weights, the optimizer and the probe are those
of a pipeline. An engine only defines what it does with a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from dni_async.early_stopping import Best
from dni_async.messages import EVALUATIONS, Activation, Marker, MarkerKind, Message
from dni_async.networks.factory import parameters_of
from dni_async.nonfinite import FiniteChecks
from dni_async.parameter_groups import numbered
from dni_async.state.module_state import collect_stats, reset_epoch_stats
from launch.engines.joint_result import together
from launch.engines.joint_stop import JointStop
from launch.engines.loop_errors import explained
from launch.job.context import RankContext
from launch.job.stage_factory import build_updater, loss_rule, patience_of
from launch.report.recorder import Recorder
from tasks.base import seed_everything
from workers.coordination.collectives import THROUGH_HOST, Peers, process_group
from workers.runtime.emulation import make_probe
from workers.runtime.precision import sequential
from workers.runtime.probe import Throughput, process_metadata, warmup_steps

STEPS_BETWEEN_CHECKS = 64
"""On a GPU, of losses that are NaN or infinite: each check waits for it. On the CPU every loss is checked."""


class Loop(ABC):
    """One rank of a baseline. It is built before it trains, so that the clock starts after the set-up.

    Args:
        layers: the part of the network that this rank holds.
        first: the number of its first layer.
    """

    exchanges_tensors = False
    """Whether ranks send each other tensors, beside losses and scores."""

    def __init__(
        self, context: RankContext, peers: Peers, layers: Sequence[nn.Module], first: int = 0
    ) -> None:
        assert context.data is not None, "engines of this kind read the data on every rank"
        self.config, self.task, self.data = context.config, context.task, context.data
        self._context = context
        self.peers = peers
        self.first = first
        self.device = context.placement.device
        self.module = sequential(layers, self.config.runtime.precision).to(self.device).train()
        context.compile(self.module, first, trains=True, gradients=(False,))
        self.metadata = {
            "layers": [f"{i} {type(layer).__name__}" for i, layer in enumerate(layers, first)],
            "parameters": parameters_of(self.module),
        } | context.placement.describe()
        self.updater = build_updater(
            self.config.optimizer,
            numbered(self.module, first),
            self.config.task.epochs * self.data.steps_per_epoch,
            self.config.runtime.precision,
        )
        self.rule = loss_rule(self.config, self.task, context.plan, self.device)
        self.rule.checks = FiniteChecks(deferred=self.device.type != "cpu")
        self.loss = self.rule.loss
        self.inputs, self.targets = context.plan.boundary(0), context.plan.target_boundary()
        warmup = warmup_steps(self.data.steps_per_epoch // self.config.evaluation.evaluations)
        runtime = self.config.runtime
        self.probe = make_probe(runtime.emulate_gflops, warmup, self.device, runtime.timeout)
        self.throughput = Throughput(warmup)
        self.steps = self.samples = 0
        self._reads = False
        patience = patience_of(self.config.evaluation.patience, self.data.steps_per_epoch)
        self.best = Best(self.module, patience) if patience else None
        self.batches_at_once = 1
        """How many batches all ranks together train in a step."""
        self.joint_stop = JointStop(context.rendezvous, context.runner.interruption)
        self.stopped = False
        """Whether rank 0 has asked all ranks to stop."""
        self.about: dict[str, Any] = {}
        """Entries of the summary with this engine's own settings."""

    def prepare(self) -> None:
        """Measure or agree on what is needed before the clock starts; all ranks call it together."""
        return

    @abstractmethod
    def step(self, x: Any, y: Any) -> None:
        """Forward, backward and update on this rank's part of a batch; mark the times, count the loss.

        x, y: inputs and targets, (B, ...) each, or trees.
        """

    @abstractmethod
    def evaluate(self, x: Any, y: Any) -> None:
        """Forward, without autograd, on this rank's part of a test batch; mark times, count scores."""

    def describe_position(self) -> str:
        """For the line that reports a failure."""
        return f"rank {self.peers.rank} ({self.config.engine}), at step {self.steps}"

    def describe_activity(self) -> str:
        """The position, and whether the rank reads data; called by another thread."""
        return self.describe_position() + (", reading a batch of the data set" if self._reads else "")

    def train(self, report: Callable[[Marker], None], enough: Callable[[], bool] = lambda: False) -> None:
        """Train to the end of the run; all ranks stop together.

        Args:
            report: on rank 0, gets the markers that a pipeline would send back.
            enough: on rank 0, asked after each evaluation whether to stop.
        """
        seed_everything(self.config.task.seed + 1 + self.peers.rank)  # dropout and the like differ
        with explained(self.describe_position, self.peers):
            self._reads = True
            for message in self._context.messages(self.probe.clock, self._should_stop, self.device):
                self._reads = False
                self.on(message, report, enough)
                self._reads = True

    def _should_stop(self) -> bool:
        return self.stopped or self.joint_stop.is_due(self.steps)

    def on(self, message: Message, report: Callable[[Marker], None], enough: Callable[[], bool]) -> None:
        """Handle a batch or a marker."""
        if isinstance(message, Marker):
            if message.kind is MarkerKind.RESTORE:
                self._restore()
                return
            loss = self._answer(message, report)
            if message.kind is MarkerKind.EPOCH:
                self.rule.new_epoch()
                reset_epoch_stats(self.module)
            elif message.kind is MarkerKind.EVALUATION:
                self.rule.reset_evaluation()
            if message.kind in EVALUATIONS:
                self.stopped, loss = self.peers.broadcast([enough(), loss])
                if self.best:
                    with self.updater.averaged():
                        self.best.judge(message.step, loss)
        elif isinstance(message, Activation) and message.train:
            self._train(message)
        elif isinstance(message, Activation):
            self._evaluate(message)

    def _unpacked(self, message: Activation) -> tuple[Any, Any]:
        """Return inputs and targets of a batch."""
        labels = len(message.extras) - self.targets.extras
        inputs = self.inputs.unpack(message.h, message.extras[:labels])
        return inputs, self.targets.unpack(message.y, message.extras[labels:])

    def _train(self, message: Activation) -> None:
        rows = self.data.rows(self.steps)
        if not self.module.training:
            self.module.train()
        self.probe.begin(self.steps, True, "load", ("train", message.h.shape))
        self.step(*self._unpacked(message))
        self.probe.end()
        if self.steps % STEPS_BETWEEN_CHECKS == 0:
            self.rule.checks.wait()
        self.steps += 1
        self.samples += len(message.y)
        self.throughput.trained(rows * self.batches_at_once)
        self.probe.step_done()

    @torch.no_grad()
    def _evaluate(self, message: Activation) -> None:
        if self.module.training:
            self.module.eval()
        self.probe.begin(self.steps, False, "load", ("evaluate", message.h.shape))
        with self.updater.averaged():
            self.evaluate(*self._unpacked(message))
        self.probe.end()
        self.throughput.pause()

    def _restore(self) -> None:
        """Load the best weights of the validations, for the test at the end."""
        assert self.best is not None
        self.best.take_up()
        self.updater.restart_average()
        self.rule.reset_evaluation()

    def _answer(self, marker: Marker, report: Callable[[Marker], None]) -> float | None:
        """Gather the state of all ranks on rank 0, report it, and return the loss of an evaluation there. A
        REPORT marker takes the latest state without waiting."""
        self.rule.checks.wait()
        own = {
            "result": self.rule.result(),
            "stage": self.stats() | self.metadata | process_metadata(self.device),
        }
        if marker.kind is MarkerKind.STOP:
            own["stage"]["timeline"] = self.probe.timeline()
        everything = (self.peers.latest if marker.kind is MarkerKind.REPORT else self.peers.gather)(own)
        if everything is None:
            return None
        result = together([rank["result"] for rank in everything])
        marker.returning = True
        marker.body = {"result": result | {"samples_per_s": self.throughput.per_second()}}
        marker.body |= {str(i): rank["stage"] for i, rank in enumerate(everything)}
        report(marker)
        return result["test_loss"]

    def stats(self) -> dict[str, Any]:
        """Return what a stage would report."""
        counts = {
            "index": self.peers.rank,
            "steps": self.steps,
            "samples": self.samples,
            "version": self.updater.version,
            "targets_sent": 0,
            "targets_received": 0,
            "held_bytes": 0,  # no buffers for other batches
        }
        scaler = self.updater.scaler.stats() if self.updater.scaler else {}
        return counts | scaler | collect_stats(self.module) | self.probe.stats()


def run_loop(
    context: RankContext, recorder: Recorder | None, make: Callable[[RankContext, Peers], Loop]
) -> nn.Module:
    """Join the others, build this rank's loop, and train. Returns its layers."""
    with process_group(context.rendezvous, context.config.runtime.timeout, context.placement.device) as peers:
        loop = make(context, peers)
        context.runner.describe_position = loop.describe_position
        context.runner.describe_activity = loop.describe_activity
        with explained(loop.describe_position, peers):
            loop.prepare()
            context.warm_up()
            peers.broadcast(None)  # wait until all ranks are set up
        context.begin_training()
        if peers.through_host and loop.exchanges_tensors:
            context.start.notes.append(THROUGH_HOST)
        if recorder:
            recorder.start(about=loop.about)
        report = recorder.on_marker if recorder else lambda marker: None
        with context.profiled(loop.probe):
            loop.train(report, lambda: recorder is not None and recorder.should_stop)
    loop.updater.take_average()
    return loop.module
