"""One batch in a stage: forward, the rule's gradient, backward, update.

Each `->` is a message that leaves at once, so that the neighbours can start while this stage goes on.

    step      forward -> Activation | gradient of the rule | backward -> TargetGradient | update
    learn                                                   `-------------- learn ------------'

    a rule that keeps graphs, when the activation comes and when the target comes:
              forward -> Activation | postpone     resume | backward -> TargetGradient | update

    a batch that is skipped, because it is empty or not finite:
              -> Activation without rows | -> TargetGradient without rows
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from dni_async.boundary import Extras
from dni_async.contract import check_like, wrong_value
from dni_async.errors import UserError
from dni_async.messages import Activation, Message, TargetGradient
from dni_async.nonfinite import NonFinite
from dni_async.ownership import clone_if_borrowed
from dni_async.rules.base import Rule
from dni_async.stage.forward import Forward


class TrainingStep(Forward):
    """What a stage does with one training or evaluation batch."""

    def has_target(self, step: int) -> bool:
        """Whether the target of this batch has rows."""
        return step % self.target_every == 0

    def train(self, message: Activation) -> Iterator[Message]:
        """Train on one batch, h (B, ...) and y (B, ...)."""
        self.steps += 1
        self.samples += len(message.h)
        if message.empty:
            return self._skip(message, message.h)
        return self._pass_through(message) if self.updater is None else self._step(message)

    def evaluate(self, message: Activation) -> Iterator[Message]:
        """Run one evaluation batch forward, in eval mode; the last stage scores it."""
        self._set_mode(training=False)
        with torch.no_grad(), self.averaged():
            output = self._run(self.layers, message.h, message)
            if not self.is_last:
                output, extras = self.returns.pack(output)
            self.rule.evaluate(output, self._targets(message))
        self.on_phase_end("evaluate")
        if not self.is_last:
            yield self._activation(message, output, extras)

    def resume(self, target: TargetGradient) -> Iterator[Message]:
        """Backward and update for the batch that waited for this target."""
        batch = self.rule.resume(target, self.version)
        if batch is None:
            self.skipped += 1
            return self._answer(target, target.grad[:0])
        if not (isinstance(batch, tuple) and [isinstance(part, Tensor) for part in batch] == [True, True]):
            raise wrong_value(self.rule, "resume", batch, "the tensors x and h of the batch, or None")
        return self._learn(target, *batch, target.grad)

    def without(self, error: NonFinite, buffers: Sequence[Tensor] = ()) -> None:
        """Go on after a NaN or infinite value, if that is wanted; else raise.

        buffers: copies of the layers' buffers from before the forward, such as batch norm's running means,
            which are put back.
        """
        if not self.skip_nonfinite:
            raise UserError(f"{error}, or go on without such batches by --on-nonfinite skip") from error
        for buffer, before in zip(self.layers.buffers(), buffers, strict=False):
            buffer.data.copy_(before)  # `data`: a graph that is kept must not see a change in place

    def _step(self, message: Activation) -> Iterator[Message]:
        buffers = self._buffers()
        x, h, extras = self._forward(message)
        out = clone_if_borrowed(h.detach(), message)
        self.on_phase_end("forward")
        sent = False
        try:
            if not self.is_last:
                self.checks.check("activation", [out])
                yield self._activation(message, out, extras)
                sent = True
            self.rule.take_extras(extras)
            gradient: Tensor | None = out  # not used: whole numbers have no gradient
            if out.is_floating_point() or self.rule.capabilities.keeps_graphs:
                gradient = self.rule.gradient(message.step, self.version, out, self._targets(message))
        except NonFinite as error:
            self.without(error, buffers)
            yield from self._skip(message, out, sent)
            return
        if gradient is None:
            self.rule.postpone(message.step, self.version, x, h)
        else:
            if not isinstance(gradient, Tensor):  # autograd would take the first of a tuple
                check_like(self.rule, "gradient", gradient, out)
            self.on_phase_end(self.rule.phase)
            yield from self._learn(message, x, h, gradient)

    def _forward(self, message: Activation) -> tuple[Tensor, Tensor, Extras]:
        """Return x (B, ...), a leaf, h (B, ...) with its graph, and the extras beside h."""
        self._set_mode(training=True)
        x = message.h.detach()
        if self.rule.capabilities.keeps_graphs:
            x = x.clone()  # it outlives the message
        if self.send_targets and self.has_target(message.step) and x.is_floating_point():
            x.requires_grad_()
        output = self._run(partial(self.rule.forward, self.layers), x, message)
        if self.returns.is_tensor and not isinstance(output, Tensor) and self._rule_returned():
            raise wrong_value(self.rule, "forward", output, "the output of the layers, a tensor")
        return x, *self.returns.pack(output)

    def _rule_returned(self) -> bool:
        """Whether what `forward` returned is the rule's own work, not that of the layers."""
        return type(self.rule).forward is not Rule.forward and not self.rule.capabilities.keeps_graphs

    def _learn(
        self, message: Activation | TargetGradient, x: Tensor, h: Tensor, gradient: Tensor
    ) -> Iterator[Message]:
        """Backward and update, by dL/dh, for the batch from x (B, ...) to h (B, ...)."""
        assert self.updater is not None
        if h.requires_grad:
            try:
                h.backward(self.updater.scaled(gradient))
            except Exception:
                self._check_contract(h, gradient)
                raise
        self.on_phase_end("backward")
        try:
            self.checks.check("gradient", self._gradients_to_check(x))
        except NonFinite as error:
            self.without(error)
            self.skipped += 1
            self.updater.drop()
            yield from self._answer(message, x.detach()[:0])
            return
        yield from self._answer(message, self._target(x))
        self.rule.before_update()
        self.updater.step(self.rule.rate)
        self.on_phase_end("update")

    def _check_contract(self, h: Tensor, gradient: Tensor) -> None:
        """Raise UserError if no backward is possible because of what the rule returned."""
        if self.rule.capabilities.keeps_graphs:
            check_like(self.rule, "resume", h, gradient)
        else:
            check_like(self.rule, "gradient", gradient, h)

    def _target(self, x: Tensor) -> Tensor:
        """Return dL/dx, (B, ...): zero if the layers give x none, without rows if none was asked for or it
        overflowed."""
        assert self.updater is not None
        if not x.requires_grad:
            return x.detach()[:0]
        grad = torch.zeros_like(x) if x.grad is None else self.updater.unscaled(x.grad)
        return x.detach()[:0] if grad is None else grad

    def _gradients_to_check(self, x: Tensor) -> list[Tensor]:
        """Return the gradient that is about to be sent, and with `skip_nonfinite` those of the weights: their
        check costs 2 to 3 % of a step, and a run that stops at NaN finds it in the next activation anyway."""
        assert self.updater is not None
        if self.updater.scaler:
            return []  # too large a scale makes them infinite, which ends nothing
        to_send = [x.grad] if x.grad is not None else []
        return to_send + (self.updater.gradients() if self.skip_nonfinite else [])

    def _answer(self, message: Activation | TargetGradient, grad: Tensor) -> Iterator[Message]:
        """Send the target gradient of the batch, (B, ...) or without rows, if a stage upstream needs it."""
        if self.send_targets:
            self.targets_sent += 1
            trust = self.rule.trust
            yield TargetGradient(message.step, self.version, clone_if_borrowed(grad, message), trust)

    def _skip(self, message: Activation, out: Tensor, sent: bool = False) -> Iterator[Message]:
        """Make no update for this batch; the neighbours get messages without rows, in the usual order.

        Args:
            out: (B, ...) the output as far as it is known, of which only the type is sent.
            sent: whether its activation has already been sent downstream.
        """
        if not sent and not self.is_last:
            yield message.emptied(out)
        if self.rule.capabilities.keeps_graphs:
            self.rule.postpone_skipped(message.step)  # its target will come, and is answered then
        else:
            self.skipped += 1
            yield from self._answer(message, message.h.detach()[:0])

    @torch.no_grad()
    def _pass_through(self, message: Activation) -> Iterator[Message]:
        """A stage that does not learn runs forward only."""
        buffers = self._buffers()
        self._set_mode(training=True)
        h, extras = self.returns.pack(self._run(self.layers, message.h, message))
        self.on_phase_end("forward")
        try:
            self.checks.check("activation", [h])
            yield self._activation(message, h, extras)
        except NonFinite as error:
            self.without(error, buffers)
            yield from self._skip(message, h)

    def _activation(self, message: Activation, h: Tensor, extras: Extras) -> Activation:
        """Return the message downstream, in memory of its own: it outlives the memory of `message`."""
        _, further_labels = self._split_extras(message)
        return Activation(
            message.step,
            self.version,
            clone_if_borrowed(h, message),
            clone_if_borrowed(message.y, message),
            message.train,
            tuple(clone_if_borrowed(extra, message) for extra in (*extras, *further_labels)),
        )
