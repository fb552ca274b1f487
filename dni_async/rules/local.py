"""Local losses: a small head on the stage's output has a loss of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self, override

from dni_async.errors import UserError
from dni_async.networks.factory import build_auxiliary
from dni_async.optim import gradients
from dni_async.rules.base import Rule
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.rules.context import RuleContext
from dni_async.rules.means import BatchMeans
from dni_async.state.state_dict import State, load_optimizer_state, optimizer_state


class LocalRule(Rule):
    """Rule `local`: decoupled greedy learning (Belilovsky et al. 2020, algorithm 2). No gradient comes back.

        h ─► head ─► the task's loss ─► dL/dh for the stage, dL/dw for the head; both step at once

    Args:
        head: h (B, ...) -> output (B, ...), in the shape of the whole network's.
        optimizer: of the head.
        loss: (output, y) -> scalar, the mean over the batch.
        metric: (output, y) -> (N,) scores.
        valid: y -> which labels count in the loss, in the shape of y; None where all of them do.
    """

    capabilities = RuleCapabilities(
        needs_targets=False,
        has_network=True,
        supervised=True,
        resumable=True,
        restarts_after_recut="auxiliary heads",
        skips_nonfinite=True,
        compiles=True,
        planned=True,
        plot_style=("#b3a100", "X"),
    )
    phase = "head"
    optimizer: Optimizer

    def __init__(
        self,
        head: nn.Module,
        optimizer: Optimizer,
        loss: Callable[[Tensor, Any], Tensor],
        metric: Callable[[Tensor, Any], Tensor],
        valid: Callable[[Any], Tensor] | None = None,
    ) -> None:
        self.head = head
        self.optimizer = optimizer
        self.loss = loss
        self.metric = metric
        self._means = BatchMeans(valid)

    @classmethod
    @override
    def build(cls, context: RuleContext) -> Self:
        head, optimizer = build_auxiliary(
            context.local, context.shape, context.output_shape, context.device, context.seed
        )
        output, loss, metric = context.output, context.loss, context.metric
        if output.extras:
            raise UserError(
                "rule local trains heads with an output like that of the network, which has tensors that "
                "need no gradient; return only others from the last layer, or use another rule"
            )
        if not output.is_tensor:
            loss = lambda h, y: context.loss(output.unpack(h, ()), y)  # noqa: E731
            metric = lambda h, y: context.metric(output.unpack(h, ()), y)  # noqa: E731
        return cls(context.in_precision(head), optimizer, loss, metric, context.valid)

    @override
    def new_epoch(self) -> None:
        self._means.clear()

    @override
    def gradient(self, step: int, version: int, h: Tensor, y: Any) -> Tensor:
        leaf = h.detach().requires_grad_()
        output = self.head(leaf)
        loss = self.loss(output, y)
        mean = self.checks.loss(loss, "the local loss", "--lr or --local.lr")
        loss.backward()
        assert leaf.grad is not None
        try:
            self.checks.check("gradient", [leaf.grad, *gradients(self.optimizer)])
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad()
        self._count(mean, output.detach(), y)
        return leaf.grad

    @override
    def stats(self) -> dict[str, Any]:
        return {"local_loss": self._means.loss, "local_accuracy": self._means.score}

    @override
    def counters(self) -> State:
        return self._means.state_dict()

    @override
    def restore_counters(self, counters: State) -> None:
        self._means.load_state_dict(counters)

    @override
    def state_dict(self) -> State:
        return {
            "head": self.head.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
        } | self.counters()

    @override
    def load_state_dict(self, state: State) -> None:
        self.head.load_state_dict(state["head"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.restore_counters(state)

    @torch.no_grad()
    def _count(self, loss: float | Tensor, output: Tensor, y: Any) -> None:
        self._means.add_loss(loss, y)
        self._means.add_scores(self.metric(output, y), later=self.checks.deferred)
