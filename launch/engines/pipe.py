"""torch's pipeline stages and schedules around the layers of one rank.

Shapes are fixed when a stage is set up, so each number of rows (a short
last batch) gets a stage and a schedule of its own around the same layers. Without example tensors a stage
learns the shapes by running its layers on uninitialised memory, which batch norm counts in its running
statistics: it gets examples. Schedule1F1B refuses fewer micro-batches than stages: a short last batch that
cannot be cut into so many equal parts goes through ScheduleGPipe, with the same gradient. So does one that
the zero-bubble schedule refuses (see `fits_schedule`); with a stage on each rank that schedule is ZB-H1 of Qi
et al. 2024 (arXiv 2401.10241).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleavedZeroBubble,
    schedules,
)
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle
from typing_extensions import override

from dni_async.ownership import starts_in_place
from dni_async.trees import first_tensor, map_tensors
from launch.engines.carrier import Carrier, PipeModule
from launch.engines.micro_batches import fits_schedule, fitting
from launch.torch_versions import known_arguments
from workers.coordination.collectives import Peers
from workers.runtime.probe import Probe

Schedule = PipelineScheduleSingle | PipelineScheduleMulti

_NO_OUTPUTS = {
    kind: known_arguments(kind.step, return_outputs=False)
    for kind in (PipelineScheduleSingle, PipelineScheduleMulti)
}
"""Saves the last stage from putting its micro-batches together."""


class Pipe:
    """A module's stages and schedules, one pair for each number of rows, in training and in evaluation.

    count: into how many micro-batches a batch is cut; as many as fit where it does not divide the rows.
    takes, returns: what crosses in front of the module, and behind it.
    loss: (output, y) -> scalar.
    labels_in: y -> how many labels the mean loss of these rows is over.
    """

    def __init__(
        self,
        module: nn.Module,
        count: int,
        engine: str,
        peers: Peers,
        device: torch.device,
        takes: Carrier,
        returns: Carrier,
        loss: Callable[[Any, Any], Tensor],
        probe: Probe,
        labels_in: Callable[[Any], int] = len,
    ) -> None:
        self.count, self.engine = count, engine
        self.index, self.stages = peers.rank, peers.world
        self.is_first, self.is_last = self.index == 0, self.index == self.stages - 1
        self.wire = torch.device("cpu") if peers.through_host else device
        self.module = PipeModule(module, takes, returns, self.is_first, self.is_last, device, self.wire)
        self.device, self.takes, self.returns = device, takes, returns
        self.loss, self.probe = loss, probe
        self.labels_in, self._whole = labels_in, torch.empty(0)
        self.scale: Callable[[], float] = lambda: 1.0
        """By which the loss is multiplied for its gradient."""
        self._schedules: dict[tuple[int, bool], Schedule] = {}
        self._made: list[TimedStage] = []

    def step(self, inputs: Sequence[Tensor], y: Any) -> Tensor | None:
        """Run forward and backward; return the mean loss on the last stage, None on the others.

        inputs: h and extras of a batch.
        """
        losses: list[Tensor] = []
        self._whole = y
        # torch cuts one tensor of targets into parts; of several it gets the numbers of the rows
        target = y if isinstance(y, Tensor) else torch.arange(len(inputs[0]), device=self.device)
        with layer_errors():
            schedule = self._schedule(len(inputs[0]), True)
            schedule.step(
                *(inputs if self.is_first else []),
                target=target if self.is_last else None,
                losses=losses,
                **_NO_OUTPUTS[
                    PipelineScheduleMulti
                    if isinstance(schedule, PipelineScheduleMulti)
                    else PipelineScheduleSingle
                ],
            )
        loss = torch.stack(losses).mean() if self.is_last else None
        self.probe.mark("wait")
        scale = self.scale()
        return loss if loss is None or scale == 1 else loss / scale

    def evaluate(self, inputs: Sequence[Tensor]) -> Any:
        """Run forward only; return the output on the last stage, None on the others."""
        with layer_errors():
            output = self._schedule(len(inputs[0]), False).step(*(inputs if self.is_first else []))
        self.probe.mark("wait")
        return None if output is None else self.returns.boundary.unpack(output, ())

    def held_bytes(self) -> int:
        """Return the bytes of all buffers that are received into."""
        buffers: Iterator[Tensor | None] = (
            getattr(info, "buffer", None)  # torch 2.8: only of what is received
            for stage in self._made
            for received in (stage.args_recv_info, stage.grad_recv_info)
            for many in received.values()
            for info in many
        )
        return sum(buffer.nbytes for buffer in buffers if buffer is not None)

    def _schedule(self, rows: int, training: bool) -> Schedule:
        if (rows, training) not in self._schedules:
            self._schedules[rows, training] = self._make_schedule(rows, training)
        return self._schedules[rows, training]

    def _make_schedule(self, rows: int, training: bool) -> Schedule:
        count = fitting(rows, self.count)
        size = rows // count
        inputs = self.takes.metas(size) if self.is_first else self.takes.meta(size)
        output = self.returns.h.meta(size) if self.is_last else self.returns.meta(size)
        stage = TimedStage(self.module, self.index, self.stages, self.wire, inputs, output)
        stage.probe, stage._whole = self.probe, set()
        self._made.append(stage)
        loss = self._loss if training else None
        if training and self.engine != "gpipe" and fits_schedule(self.engine, count, self.stages):
            if self.engine == "1f1b":
                return Schedule1F1B(stage, count, loss_fn=loss)
            stage.splits = True
            return ScheduleInterleavedZeroBubble([stage], count, loss_fn=loss)
        stage.num_stages = min(count, self.stages)  # torch 2.8 to 2.10 refuse fewer micro-batches than stages
        schedule = ScheduleGPipe(stage, count, loss_fn=loss)
        stage.num_stages = self.stages
        return schedule

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        self.probe.mark("wait")
        y: Any = target
        if not isinstance(self._whole, Tensor):
            y = map_tensors(lambda tensor: tensor[target], self._whole)
        loss = self.loss(self.returns.boundary.unpack(output, ()), y)
        factor = self._share(y) * self.scale()
        self.probe.mark("forward")
        return loss if factor == 1 else loss * factor

    def _share(self, y: Any) -> float:
        """Return the weight of a micro-batch in torch's mean over all of them, by the labels that count."""
        rows, labels = len(first_tensor(self._whole)), self.labels_in(self._whole)
        return self.labels_in(y) * (rows / len(first_tensor(y))) / labels if labels else 1.0


@contextmanager
def layer_errors() -> Iterator[None]:
    """Raise the error of a layer itself, without the description of all tensors, and without the schedule of
    all stages in the log, that torch adds."""
    logging.getLogger(schedules.__name__).setLevel(logging.CRITICAL)
    try:
        yield
    except RuntimeError as error:
        raise error.__cause__ or error from None


class TimedStage(PipelineStage):
    """A PipelineStage that marks when it computes; all else is waiting for its neighbours."""

    probe: Probe
    splits = False
    """Whether backwards are split (zero-bubble)."""
    _whole: set[int]
    """Micro-batches whose backward was not split: torch's split loses the weights of layers whose input needs
    no gradient."""

    @override
    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        self.probe.mark("wait")
        output = super().forward_one_chunk(*args, **kwargs)
        self.probe.mark("forward" if self.probe.training else "evaluate")
        return output

    @override
    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        self.probe.mark("wait")
        if not kwargs.get("full_backward", True) and not self._input_needs_gradient(bwd_chunk_id):
            self._whole.add(bwd_chunk_id)
            kwargs["full_backward"] = True
        super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        if self.has_backward:
            self.probe.mark("backward")

    @override
    def backward_weight_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        self.probe.mark("wait")
        if bwd_chunk_id in self._whole:
            self._whole.remove(bwd_chunk_id)
            return
        super().backward_weight_one_chunk(bwd_chunk_id, *args, **kwargs)
        if self.has_backward:
            self.probe.mark("backward")

    @override
    def backward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:
        gradients, groups = super().backward_maybe_with_nosync(*args, **kwargs)
        # what is sent must be contiguous, and those of a split backward are as autograd leaves them
        return tuple(g.contiguous() if isinstance(g, Tensor) else g for g in gradients), groups

    def _input_needs_gradient(self, chunk: int) -> bool:
        _, inputs = self.fwd_cache[chunk]
        return any(isinstance(x, Tensor) and x.requires_grad for x in inputs)

    @override
    def scale_grads(self, grad_scale_factor: int) -> None:
        self.probe.mark("wait")
        super().scale_grads(grad_scale_factor)
        if self.has_backward:
            self.probe.mark("update")

    @override
    def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:
        # what is received must not be overwritten, and what is sent must be contiguous
        if starts_in_place(self.submod):
            args = tuple(x.clone() for x in args)
        output = super().forward_maybe_with_nosync(*args, **kwargs).contiguous()
        return output.clone() if self.splits and output._is_view() else output  # a split backward detaches it
