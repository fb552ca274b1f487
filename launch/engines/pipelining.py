"""torch.distributed.pipelining as it comes: its own PipelineStage under ScheduleGPipe or Schedule1F1B.

    gpipe    F0 F1 F2 F3 .  .  B0 B1 B2 B3 update     1f1b    F0 F1 B0 F2 B1 F3 B2 B3 update
             .  F0 F1 F2 F3 B0 B1 B2 B3 .  update             .  F0 B0 F1 B1 F2 B2 ...

Both compute the gradient of the whole batch's mean loss (micro-batches are equal, their losses averaged), so
they train as sequential backprop does, but for batch norm: its statistics are those of each micro-batch.

Three of its properties matter here. Shapes are fixed when a stage is set up, so each number of rows (a short
last batch) gets a stage and a schedule of its own around the same layers. Without example tensors a stage
learns the shapes by running its layers on uninitialised memory, which batch norm counts in its running
statistics: it gets examples. Schedule1F1B refuses fewer micro-batches than stages: a short last batch that
cannot be cut into so many equal parts goes through ScheduleGPipe, with the same gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from dni_async.ownership import starts_in_place
from launch.engines.baseline_loop import Loop, run_loop
from launch.engines.micro_batches import candidates, check_given, fastest, fitting
from launch.job.context import RankContext
from launch.job.partition_plan import build_layers, device_clock
from launch.job.stage_factory import build_updater
from launch.report.recorder import Recorder
from workers.coordination.collectives import Peers
from workers.runtime.emulation import make_probe
from workers.runtime.precision import sequential
from workers.runtime.probe import Probe


class Pipelining(Loop):
    """One stage of a pipeline."""

    pipe: Pipe
    """There when the number of micro-batches is known."""

    def __init__(self, context: RankContext, peers: Peers) -> None:
        layers = build_layers(context.task, context.config.task.seed)
        first, end = context.plan.bounds[context.index]
        super().__init__(context, peers, layers[first:end], first)
        self.examples = self._examples(layers, context.plan.bounds)

    def prepare(self) -> None:
        """Choose the number of micro-batches: the user's, or the fastest of several."""
        rows, stages, count = self.data.rows(0), self.peers.world, self.config.partition.micro_batches
        least = stages if self.config.engine == "1f1b" else 1
        if count:
            check_given(count, rows, least)
        else:
            counts = candidates(rows, stages, least)
            if self.config.runtime.deterministic:
                counts = counts[-1:]  # the same again, whatever a clock would say
            count = fastest(self._trials(counts), self.peers, device_clock(self.device))
        self.about = {"micro_batches": count}
        self.pipe = self._pipe(self.module, count, self.probe)

    def step(self, x: Tensor, y: Tensor) -> None:
        """One batch through this stage."""
        loss = self.pipe.step(x, y)
        if loss is not None:
            self.rule.count(loss, len(y))
        self.updater.step()
        self.probe.mark("update")

    def evaluate(self, x: Tensor, y: Tensor) -> None:
        """One test batch through this stage; the last one scores it."""
        output = self.pipe.evaluate(x)
        if output is not None:
            self.rule.evaluate(output, y)
            self.probe.mark("evaluate")

    def stats(self) -> dict[str, Any]:
        """Also the bytes of the buffers that are kept for what comes from the neighbours."""
        return super().stats() | {"held_bytes": self.pipe.held_bytes()}

    def _examples(self, layers: Sequence[nn.Module], bounds: Sequence[tuple[int, int]]) -> list[Tensor]:
        """A row of the input of each stage, and of the last one's output."""
        examples = [self.data.sample()[0][:1]]
        for first, end in bounds:
            part = sequential(copy.deepcopy(layers[first:end]), self.config.runtime.precision).cpu().eval()
            output = part(examples[-1].clone())
            examples.append(output.detach().requires_grad_(output.requires_grad))
        return examples

    def _pipe(self, module: nn.Module, count: int, probe: Probe) -> Pipe:
        engine, loss = self.config.engine, self.loss
        return Pipe(module, count, engine, self.peers, self.device, self.examples, loss, probe)

    def _trials(self, counts: Sequence[int]) -> dict[int, Callable[[], None]]:
        """A training step with each count, all on the same throwaway copy of the layers."""
        module = copy.deepcopy(self.module).train()
        updater = build_updater(
            self.config.optimizer, module, self.config.task.epochs * self.data.steps_per_epoch
        )
        probe = make_probe(self.config.runtime.emulate_gflops, 0)
        x, y = (tensor.to(self.device) for tensor in self.data.sample())

        def trial(count: int) -> Callable[[], None]:
            pipe = self._pipe(module, count, probe)

            def step() -> None:
                probe.begin(0, True, "load", ("trial", count))
                pipe.step(x, y)
                updater.step()
                probe.mark("update")
                probe.end()

            return step

        return {count: trial(count) for count in counts}


class Pipe:
    """A module's stages and schedules, one pair for each number of rows, in training and in evaluation.

    count: into how many micro-batches a batch is cut; as many as fit where it does not divide the rows.
    examples: a row of the input of each stage, and of the last one's output.
    """

    def __init__(
        self,
        module: nn.Module,
        count: int,
        engine: str,
        peers: Peers,
        device: torch.device,
        examples: Sequence[Tensor],
        loss: Callable[[Tensor, Tensor], Tensor],
        probe: Probe,
    ) -> None:
        self.module, self.count, self.engine = module, count, engine
        self.index, self.stages = peers.rank, peers.world
        self.device, self.examples = device, examples
        self.loss, self.probe = loss, probe
        self._schedules: dict[tuple[int, bool], PipelineScheduleSingle] = {}
        self._made: list[TimedStage] = []

    def step(self, x: Tensor, y: Tensor) -> float | None:
        """Forward and backward; the mean loss, which the last stage knows."""
        losses: list[Tensor] = []
        first, last = self.index == 0, self.index == self.stages - 1
        with said_plainly():
            self._schedule(len(x), True).step(
                *([x] if first else []), target=y if last else None, losses=losses, return_outputs=False
            )
        loss = torch.stack(losses).mean().item() if last else None
        self.probe.mark("wait")
        return loss

    def evaluate(self, x: Tensor) -> Tensor | None:
        """Forward only; the output (B, ...), which the last stage has."""
        with said_plainly():
            output = self._schedule(len(x), False).eval(*([x] if self.index == 0 else []))
        self.probe.mark("wait")
        return output

    def held_bytes(self) -> int:
        """Bytes of all buffers that are received into."""
        infos = (
            info
            for stage in self._made
            for received in (stage.args_recv_info, stage.grad_recv_info)
            for many in received.values()
            for info in many
        )
        return sum(info.buffer.nbytes for info in infos if info.buffer is not None)

    def _schedule(self, rows: int, training: bool) -> PipelineScheduleSingle:
        if (rows, training) not in self._schedules:
            self._schedules[rows, training] = self._make_schedule(rows, training)
        return self._schedules[rows, training]

    def _make_schedule(self, rows: int, training: bool) -> PipelineScheduleSingle:
        count = fitting(rows, self.count)
        size = rows // count
        x, h = (
            torch.empty(
                (size, *row.shape[1:]), dtype=row.dtype, device="meta", requires_grad=row.requires_grad
            )
            for row in self.examples[self.index : self.index + 2]
        )
        stage = TimedStage(self.module, self.index, self.stages, self.device, x, h)
        stage.probe = self.probe
        self._made.append(stage)
        one_each = self.engine == "1f1b" and training and count >= self.stages
        schedule = Schedule1F1B if one_each else ScheduleGPipe
        return schedule(stage, count, loss_fn=self._loss if training else None)

    def _loss(self, output: Tensor, y: Tensor) -> Tensor:
        self.probe.mark("wait")
        loss = self.loss(output, y)
        self.probe.mark("forward")
        return loss


@contextmanager
def said_plainly() -> Iterator[None]:
    """What went wrong in a layer, without the lines on tensors that torch puts in its place."""
    try:
        yield
    except RuntimeError as error:
        raise error.__cause__ or error from None


class TimedStage(PipelineStage):
    """A PipelineStage that markers when it computes; all else is waiting for its neighbours."""

    probe: Probe

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """One micro-batch forward."""
        self.probe.mark("wait")
        output = super().forward_one_chunk(*args, **kwargs)
        self.probe.mark("forward" if self.probe.training else "evaluate")
        return output

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> None:
        """One micro-batch backward; nothing in evaluation."""
        self.probe.mark("wait")
        super().backward_one_chunk(*args, **kwargs)
        if self.has_backward:
            self.probe.mark("backward")

    def scale_grads(self, grad_scale_factor: int) -> None:
        """The sum of the micro-batches' gradients becomes their mean."""
        self.probe.mark("wait")
        super().scale_grads(grad_scale_factor)
        if self.has_backward:
            self.probe.mark("update")

    def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:
        """The layers. What is received must not be overwritten, and what is sent must be contiguous."""
        if starts_in_place(self.submod):
            args = tuple(x.clone() for x in args)
        return super().forward_maybe_with_nosync(*args, **kwargs).contiguous()


def run(context: RankContext, recorder: Recorder | None) -> nn.Module:
    """Train this stage."""
    return run_loop(context, recorder, Pipelining)
