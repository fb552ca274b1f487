"""What decoupled training is measured against, as anybody would write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dni_async.errors import UserError
from dni_async.messages import Mark, MarkKind
from dni_async.recipes import parameters_of
from dni_async.rules import LossRule
from launch.blueprint import build_layers
from launch.build import build_updater
from launch.config import TrainConfig
from launch.source import Data
from tasks.base import Task
from workers.device import Placement
from workers.probe import Probe, Throughput, process_facts, warmup_steps


class Backprop:
    """Sequential backprop in this process: the textbook loop, timed and reported like a stage.

    Same initial weights, data order, optimizer and threads as the stages. Built first and trained then,
    so that the clock of a run starts behind the set-up, as it does for stages.
    """

    def __init__(self, config: TrainConfig, task: Task, data: Data, placement: Placement) -> None:
        self.config, self.task, self.data, self.device = config, task, data, placement.device
        layers = build_layers(task, config.seed)
        self.model = nn.Sequential(*layers).to(self.device)
        self.facts = {
            "layers": [f"{i} {type(layer).__name__}" for i, layer in enumerate(layers)],
            "parameters": parameters_of(self.model),
        } | placement.describe()
        self.updater = build_updater(config, self.model, config.epochs * data.steps_per_epoch)
        self.rule = LossRule(task.loss, task.metric)
        warmup = warmup_steps(data.steps_per_epoch)
        self.probe = Probe(warmup)
        self.throughput = Throughput(warmup)
        self.steps = self.samples = 0
        self._told = self.probe.clock()
        torch.manual_seed(config.seed + 1)

    def where(self) -> str:
        """For the line that reports a failure."""
        return f"stage 0 (backprop), at step {self.steps}"

    def train(self, report: Callable[[Mark], None]) -> None:
        """The whole run; `report` gets the marks that a pipeline would send back."""
        try:
            for epoch in range(1, self.config.epochs + 1):
                self.epoch(epoch, lambda epoch=epoch: report(self._mark(MarkKind.REPORT, epoch)))  # type: ignore[misc]
                report(self._mark(MarkKind.EPOCH, epoch))
                self.rule.new_epoch()
        except UserError as error:
            raise UserError(f"{self.where()}: {error}") from error
        report(self._mark(MarkKind.STOP, self.config.epochs))

    def epoch(self, epoch: int, tell: Callable[[], None]) -> None:
        """Train on every batch and evaluate on the whole test set; `tell` about once a second."""
        self.model.train()
        for x, y in self.data.training(epoch):
            x, y = x.to(self.device), y.to(self.device)
            self.probe.begin(self.steps, True, "load")
            loss = self.task.loss(self.model(x), y)
            self.rule.count(loss.item(), len(y))
            self.probe.mark("forward")
            loss.backward()
            self.probe.mark("backward")
            self.updater.step()
            self.probe.mark("update")
            self.steps += 1
            self.samples += len(y)
            self.throughput.trained(len(y))
            self.probe.step_done()
            if self.probe.clock() - self._told > 1.0:
                self._told = self.probe.clock()
                tell()
        self._evaluate()

    @torch.no_grad()
    def _evaluate(self) -> None:
        self.model.eval()
        for x, y in self.data.evaluation():
            x, y = x.to(self.device), y.to(self.device)
            self.probe.begin(self.steps, False, "load")
            self.rule.evaluate(self.model(x), y)
            self.probe.mark("evaluate")
        self.throughput.pause()

    def _mark(self, kind: MarkKind, epoch: int) -> Mark:
        body: dict[str, Any] = {"result": self.result(), "0": self.stats() | self.facts | process_facts()}
        if kind is MarkKind.STOP:
            body["0"]["timeline"] = self.probe.timeline()
        return Mark(kind, self.steps, epoch, returning=True, body=body)

    def result(self) -> dict[str, Any]:
        """What the last stage of a pipeline reports."""
        return self.rule.result() | {"samples_per_s": self.throughput.per_second()}

    def stats(self) -> dict[str, Any]:
        """What a stage reports."""
        return {
            "index": 0,
            "steps": self.steps,
            "samples": self.samples,
            "version": self.updater.version,
            "targets_sent": 0,
            "targets_received": 0,
        } | self.probe.stats()
