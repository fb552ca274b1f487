"""torch.distributed.pipelining as it comes: its own PipelineStage under one of its schedules.

    gpipe    F0 F1 F2 F3 .  .  B0 B1 B2 B3 update     1f1b    F0 F1 B0 F2 B1 F3 B2 B3 update
             .  F0 F1 F2 F3 B0 B1 B2 B3 .  update             .  F0 B0 F1 B1 F2 B2 ...
    zb       F0 F1 I0 W0 F2 I1 W1 F3 I2 W2 I3 W3 update       I: gradient of the inputs, which is sent at once
             .  F0 I0 F1 I1 W0 F2 I2 W1 F3 I3 W2 W3 update    W: of the weights, which fills the bubble

All compute the gradient of the whole batch's mean loss (micro-batches are equal, their losses averaged), so
they train as sequential backprop does, but for batch norm: its statistics are those of each micro-batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_async.boundary import Extras
from dni_async.errors import UserError
from dni_async.parameter_groups import numbered
from dni_async.trees import map_tensors
from launch.engines.baseline_loop import Loop, run_loop
from launch.engines.carrier import Carrier
from launch.engines.micro_batches import candidates, check_given, fastest
from launch.engines.pipe import Pipe
from launch.job.context import RankContext
from launch.job.layers import NetworkLayers
from launch.job.stage_costs import device_clock
from launch.job.stage_factory import build_updater
from launch.report.recorder import Recorder
from workers.coordination.collectives import Peers
from workers.runtime.emulation import make_probe
from workers.runtime.precision import sequential
from workers.runtime.probe import Probe


class Pipelining(Loop):
    """One stage of a pipeline."""

    exchanges_tensors = True

    pipe: Pipe
    """Made by `prepare`, which decides on the number of micro-batches."""

    def __init__(self, context: RankContext, peers: Peers) -> None:
        layers = NetworkLayers(context.task, context.config.task)
        first, end = context.plan.bounds[context.index]
        super().__init__(context, peers, layers.build(first, end), first)
        self.updater.whole_norm = lambda own: peers.norm(own.to(self.device))  # as sequential backprop clips
        self.takes, self.returns = self._carriers(layers)[context.index :][:2]

    @override
    def prepare(self) -> None:
        rows, stages, count = self.data.rows(0), self.peers.world, self.config.partition.micro_batches
        if count:
            check_given(count, rows, stages, self.config.engine)
        else:
            counts = candidates(rows, stages, self.config.engine)
            if self.config.runtime.deterministic:
                counts = counts[-1:]  # the same again, whatever a clock would say
            count = fastest(self._trials(counts), self.peers, device_clock(self.device))
        if self.config.engine == "zb":
            self._check_split(count)
        self.about = {"micro_batches": count}
        self.pipe = self._pipe(self.module, count, self.probe)
        if scaler := self.updater.scaler:
            self.pipe.scale = lambda: scaler.scale
            scaler.agree = lambda finite: not self.peers.sum(int(not finite))

    @override
    def step(self, x: Any, y: Any) -> None:
        loss = self.pipe.step(self._inputs(x), y)
        if loss is not None:
            self.rule.count(loss, y)
        self.updater.step()
        self.probe.mark("update")

    @override
    def evaluate(self, x: Any, y: Any) -> None:
        output = self.pipe.evaluate(self._inputs(x))
        if output is not None:
            self.rule.evaluate(output, y)
            self.probe.mark("evaluate")

    @override
    def stats(self) -> dict[str, Any]:
        return super().stats() | {"held_bytes": self.pipe.held_bytes()}

    def _inputs(self, x: Any) -> list[Tensor]:
        """Return h and the extras of the inputs of a batch."""
        h, extras = self.inputs.pack(x)
        return [h, *extras]

    def _carriers(self, layers: NetworkLayers) -> list[Carrier]:
        """Return what crosses in front of each stage, and behind the last.

        Raises:
            UserError: a tensor of a batch has no rows, or the output has tensors that need no gradient.
        """
        plan, engine = self._context.plan, self.config.engine
        one, two = self._examples(layers, [0]), self._examples(layers, [0, 0])
        cuts = [0, *(end for _, end in plan.bounds)]
        examples = zip(one, two, strict=True)
        made = [Carrier(plan.boundary(cut), *pair) for cut, pair in zip(cuts, examples, strict=True)]
        if not all(form.has_rows for form in made[0].extras):
            raise UserError(f"engine {engine} cuts batches, and a tensor of a batch has no row per sample")
        if made[-1].extras:
            raise UserError(
                f"engine {engine} takes tensors that need a gradient from the last layer; return no others"
            )
        return made

    def _examples(self, layers: NetworkLayers, rows: list[int]) -> list[tuple[Tensor, Extras]]:
        """Return h and extras in front of each stage, and behind the last, for these rows of a batch."""
        plan = self._context.plan
        h, extras = self.inputs.pack(map_tensors(lambda tensor: tensor[rows], self.data.sample()[0]))
        examples = [(h, extras)]
        h, extras = h.to(self.device), tuple(extra.to(self.device) for extra in extras)
        crossing, ends = self.inputs.unpack(h.clone(), extras), {end for _, end in plan.bounds}
        for number, layer in enumerate(layers, 1):
            part = sequential([copy.deepcopy(layer)], self.config.runtime.precision).to(self.device).eval()
            crossing = part(crossing)
            if number in ends:
                output, extras = plan.boundary(number).pack(crossing)
                h = output.detach().requires_grad_(output.requires_grad)
                examples.append((h, extras))
                crossing = plan.boundary(number).unpack(h.clone(), extras)
        return examples

    def _check_split(self, count: int) -> None:
        """Raise UserError on all ranks if zero-bubble's split backward has other gradients than a whole one:
        some releases of torch count those of branches twice."""
        x, y = map_tensors(lambda tensor: tensor.to(self.device), self.data.sample())
        gradients = []
        for engine in ("1f1b", "zb"):
            module, probe = copy.deepcopy(self.module).train(), Probe(0)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self._pipe(module, count, probe, engine).step(self._inputs(x), y)
            gradients.append([p.grad for p in module.parameters() if p.grad is not None])
        same = len(gradients[0]) == len(gradients[1]) and all(map(_are_close, *gradients))
        if self.peers.sum(int(not same)):
            raise UserError(
                f"engine zb: torch {torch.__version__} splits the backward of these layers and gets other "
                "gradients; use 1f1b or gpipe"
            )

    def _pipe(self, module: nn.Module, count: int, probe: Probe, engine: str | None = None) -> Pipe:
        return Pipe(
            module,
            count,
            engine or self.config.engine,
            self.peers,
            self.device,
            self.takes,
            self.returns,
            self.loss,
            probe,
            self.rule.labels_in,
        )

    def _trials(self, counts: Sequence[int]) -> dict[int, Callable[[], None]]:
        """Return a training step with each count, all on the same temporary copy of the layers."""
        module = copy.deepcopy(self.module).train()
        updater = build_updater(
            self.config.optimizer,
            numbered(module.children(), self.first),
            self.config.task.epochs * self.data.steps_per_epoch,
        )
        runtime = self.config.runtime
        probe = make_probe(runtime.emulate_gflops, 0, self.device, runtime.timeout)
        x, y = map_tensors(lambda tensor: tensor.to(self.device), self.data.sample())
        inputs = self._inputs(x)

        def trial(count: int) -> Callable[[], None]:
            pipe = self._pipe(module, count, probe)

            def step() -> None:
                probe.begin(0, True, "load", ("trial", count))
                pipe.step(inputs, y)
                updater.step()
                probe.mark("update")
                probe.end()

            return step

        return {count: trial(count) for count in counts}


def _are_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def run(context: RankContext, recorder: Recorder | None) -> nn.Module:
    """Train this stage."""
    return run_loop(context, recorder, Pipelining)
