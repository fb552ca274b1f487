"""torch's DistributedDataParallel: every process has the whole network and a part of each batch.

    rank 0   rows 0..127     forward  backward ┐ all-reduce of the gradients, in buckets, ┌ update
    rank 1   rows 128..255   forward  backward ┘ while the backward pass goes on          └ update

Batch norm is that of DDP: statistics of the rank's own rows, running statistics of rank 0.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from dni_async.trees import first_tensor, map_tensors
from launch.engines.baseline_loop import Loop, run_loop
from launch.job.context import RankContext
from launch.job.layers import build_layers
from launch.report.recorder import Recorder
from workers.coordination.collectives import Peers


class Ddp(Loop):
    """One replica.

    The averaged gradient is that of the mean loss over the whole batch, also where its rows do not divide:
    with n_r of n rows on rank r of R,

        mean over ranks of  R n_r / n * dL_r  =  sum of  n_r / n * dL_r  =  dL

    Where labels are ignored, n_r and n are numbers of labels that count.

    A rank without a row (a last batch of fewer rows than ranks) takes part with a gradient of zero.
    """

    exchanges_tensors = True

    def __init__(self, context: RankContext, peers: Peers) -> None:
        super().__init__(context, peers, build_layers(context.task, context.config.task))
        unreached = self._unreached()
        some = peers.sum(len(unreached)) > 0
        self.replica = DistributedDataParallel(_MaybeEmpty(self.module), find_unused_parameters=some)
        self._trained = [p for p in self.module.parameters() if p.requires_grad and p not in unreached]
        self._ready = 0
        for parameter in self._trained:
            parameter.register_post_accumulate_grad_hook(self._gradient_is_ready)

    def _unreached(self) -> set[nn.Parameter]:
        """Return the parameters that get no gradient, for example in front of a layer that gives its input
        none; DDP would wait for them."""
        parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        x, y = map_tensors(lambda tensor: tensor.to(self.device), self.data.sample())
        if not len(first_tensor(y)) or not parameters:
            return set()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            trial = copy.deepcopy(self.module)
            copies = [trial.get_parameter(name) for name in parameters]
            gradients = torch.autograd.grad(self.loss(trial(x), y), copies, allow_unused=True)
        pairs = zip(parameters.values(), gradients, strict=True)
        return {parameter for parameter, gradient in pairs if gradient is None}

    @override
    def step(self, x: Any, y: Any) -> None:
        output, rows = self.replica(x), len(first_tensor(y))
        loss = self.loss(output, y) if rows else output
        if rows:
            self.rule.count(loss, y)
        self.probe.mark("forward")
        share = self._share(y)
        self._ready = 0
        self.updater.scaled(loss if share == 1 else loss * share).backward()
        self.probe.mark("wait")
        self.updater.step()
        self.probe.mark("update")

    @override
    def evaluate(self, x: Any, y: Any) -> None:
        output = self.replica(x)
        if len(first_tensor(y)):
            self.rule.evaluate(output, y)
        self.probe.mark("evaluate")

    def _share(self, y: Any) -> float:
        """Return R n_r / n, with n counting labels where some are ignored, and rows otherwise."""
        if self.rule.valid is None:
            return self.peers.world * len(first_tensor(y)) / self.data.rows(self.steps)
        own = self.rule.labels_in(y)
        labels = self.peers.sum(own)
        return self.peers.world * own / labels if labels else 0.0

    def _gradient_is_ready(self, parameter: Tensor) -> None:
        """Mark the end of this rank's own backward pass at its last gradient; the all-reduce may go on."""
        self._ready += 1
        if self._ready == len(self._trained):
            self.probe.mark("backward")


class _MaybeEmpty(nn.Module):
    """The network; its output for no rows is a zero that depends on every parameter, for DDP's gradients."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        """Return the output for x, or a scalar zero."""
        if len(first_tensor(x)):
            return self.module(x)
        trained = [p.flatten()[:1].sum() for p in self.module.parameters() if p.requires_grad]
        return torch.stack(trained).sum() * 0


def run(context: RankContext, recorder: Recorder | None) -> nn.Module | None:
    """Train this replica; rank 0 saves it."""
    module = run_loop(context, recorder, Ddp)
    return module if context.index == 0 else None
