"""A stage: a group of consecutive layers that takes one message and returns messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.early_stopping import Best, Patience
from dni_async.errors import UserError
from dni_async.messages import EVALUATIONS, Activation, Marker, MarkerKind, Message, TargetGradient
from dni_async.nonfinite import NonFinite, check_finite
from dni_async.optim import Updater
from dni_async.ownership import clone_if_borrowed, starts_in_place
from dni_async.rules.base import Rule
from dni_async.rules.delayed import DelayedRule
from dni_async.rules.loss import LossRule
from dni_async.state.checkpoint import Parts, load_weights_state, weights_state
from dni_async.state.module_state import start_over, stats_of
from dni_async.state.state_dict import State, load_random_state, random_state

COUNTS = ("steps", "samples", "targets_sent", "targets_received", "skipped", "targets_skipped")
"""What a stage counts since the start of the run."""


class Stage:
    """A pure state machine: no queue, no clock, no rank inside.

    One training batch, in order of time. Each `->` is a message that leaves at once, so that the
    neighbours can start while this stage goes on:

        forward -> Activation | gradient from the rule, backward -> TargetGradient | optimizer step

    Under rule `delayed` the batch waits at the bar, in a stash, until its own target comes.

    The same stage runs in the simulator, in threads and in torchrun ranks. The last stage has a
    `LossRule` and sends no activations; stage 0, or a stage whose neighbour upstream wants none
    (`send_targets=False`), sends no targets.

    target_every: of one step in so many (those divisible by it) the target is the gradient; of the others it
    has no rows, which saves this stage a product, the SG network that waits for it an update, and the way in
    between a tensor. All stages of a network have the same; under rule `delayed` every batch needs its
    target.
    skip_nonfinite: where an activation, a gradient or a loss is NaN or infinite (see `finite`), go on without
    the batch instead of raising UserError. Weights, optimizer and SG network stay as they were. What others
    would get of it, they get with no rows, so that all messages come and nobody waits.
    patience: evaluations are validations; keep the best weights (see `early_stopping`).
    """

    def __init__(
        self,
        index: int,
        layers: nn.Module,
        rule: Rule,
        updater: Updater | None,
        *,
        send_targets: bool,
        target_every: int = 1,
        skip_nonfinite: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self.index = index
        self.layers = layers.train()
        self.rule = rule
        self.updater = updater if rule.updates else None
        self.send_targets = send_targets
        self.target_every = target_every
        self.skip_nonfinite = skip_nonfinite
        self.on_phase_end: Callable[[str], None] = lambda kind: None
        """Called when a piece of work ends (forward, backward, update, sg, head, evaluate, checkpoint)."""
        self.save_checkpoint: Callable[[int, State | None], dict[str, Any]] = lambda step, part: {}
        """Called with the stage's part of the checkpoint of a step, None if it was lost with a process that
        died; the marker takes what it gives along."""
        self._in_place = starts_in_place(layers)
        self._delayed = rule if isinstance(rule, DelayedRule) else None
        self.best = Best(layers, patience) if patience else None
        self._parts = Parts(self.state_dict, copy_late=self._delayed is not None)
        self.done = False
        """The STOP marker has gone back: nothing will come any more."""
        self.steps = self.samples = 0
        self.targets_sent = self.targets_received = 0
        self.skipped = 0
        """Training batches that the stage did not learn from."""
        self.targets_skipped = 0
        """Targets that taught nothing and should have: without rows, or of no use to the SG network."""

    @property
    def is_last(self) -> bool:
        """Whether this stage computes the loss."""
        return isinstance(self.rule, LossRule)

    @property
    def version(self) -> int:
        """Optimizer steps taken so far."""
        return self.updater.version if self.updater else 0

    @property
    def has_room(self) -> bool:
        """Whether an activation may be handled; if not, targets must come first."""
        if self.best is not None and self.best.restoring:
            return False
        return self._delayed is None or (self._delayed.stash.has_room and not self._parts)

    def on(self, message: Message) -> Iterator[Message]:
        """Handle any message. Iterate to the end: the work goes on between the messages."""
        if isinstance(message, Activation):
            return self.on_activation(message)
        if isinstance(message, TargetGradient):
            return self.on_target(message)
        return self.on_marker(message)

    def on_activation(self, message: Activation) -> Iterator[Message]:
        """Forward, and for a training batch the update."""
        if not message.train:
            yield from self._evaluate(message)
            return
        self.steps += 1
        self.samples += len(message.h)
        if message.empty:
            yield from self._skip(message)
        elif self.updater is None:
            yield from self._pass_through(message)
        else:
            yield from self._train(message)

    def on_target(self, message: TargetGradient) -> Iterator[Message]:
        """The target gradient of an earlier batch: it trains the SG network, or the stage (`delayed`)."""
        self.targets_received += 1
        self._parts.on_target(message)
        if self._delayed is not None:
            batch = self._delayed.resume(message, self.version)
            if batch is not None:
                yield from self._learn(message, batch.x, batch.h, message.grad)
            else:
                self.skipped += 1
                yield from self._answer(message, message.grad[:0])
        elif message.empty:
            self.targets_skipped += self._has_target(message.step)
            self.rule.discard(message.step)
        else:
            try:
                self.rule.take_target(message, self.version)
            except NonFinite as error:
                self._without(error)
                self.targets_skipped += 1
            self.on_phase_end(self.rule.work)

    def on_marker(self, marker: Marker) -> Iterator[Message]:
        """Pass it down; the last stage turns it round; on the way back add what this stage knows."""
        if not marker.returning:
            if not self.is_last:
                yield marker
                self._went_down(marker)
                return
            self._turn_round(marker)
            self._went_down(marker)
        self._came_back(marker)
        yield marker

    def _turn_round(self, marker: Marker) -> None:
        assert isinstance(self.rule, LossRule)
        marker.returning = True
        marker.body["result"] = self.rule.result()
        if marker.kind in (MarkerKind.EVALUATION, MarkerKind.RESTORE):
            self.rule.new_evaluation()

    def _went_down(self, marker: Marker) -> None:
        """What this stage is now, is what the marker is about."""
        if marker.kind is MarkerKind.CHECKPOINT:
            self._parts.begin(marker.step)
            self.on_phase_end("checkpoint")
        elif self.best is not None:
            self.best.went_down(marker)
            if marker.kind in EVALUATIONS:
                self.on_phase_end("evaluate")

    def _came_back(self, marker: Marker) -> None:
        """All that was sent before it has been answered. Say how this stage is doing."""
        if self._delayed is not None:
            self._delayed.stash.check_answered(marker.step)
        marker.body[str(self.index)] = self.stats()
        if self.best is not None:
            self.best.came_back(marker)
        if marker.kind is MarkerKind.EPOCH:
            self._new_epoch()
            self._parts.on_epoch()
        elif marker.kind is MarkerKind.CHECKPOINT:
            marker.body[str(self.index)] |= self.save_checkpoint(marker.step, self._whole_part(marker.step))
            self.on_phase_end("checkpoint")
        self.done = marker.kind is MarkerKind.STOP

    def _whole_part(self, step: int) -> State | None:
        """With the best of the validations before it, whose markers are all back by now."""
        part = self._parts.whole(step)
        return part | self.best.state_dict() if part and self.best else part

    def stats(self) -> dict[str, Any]:
        """Counts since the start, JSON-able."""
        counts = {"index": self.index, "version": self.version} | self._counts()
        return counts | self.rule.stats() | stats_of(self.layers)

    def state_dict(self) -> State:
        """All that the stage goes on from, bit for bit, in a resumed run."""
        return weights_state(self.layers, self.updater) | {
            "rule": self.rule.state_dict(),
            "counts": self._counts(),
            "random": random_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a part of a checkpoint. After a recut the rule starts anew and every target counts as
        taken.

        Raises RuntimeError, ValueError or KeyError when the state is of other layers or another rule.
        """
        load_weights_state(self.layers, self.updater, state)
        steps = state["counts"]["steps"]
        answered = {
            "targets_sent": steps * self.send_targets,
            "targets_received": steps * self.rule.wants_targets,
        }
        for name, count in (answered | state["counts"]).items():
            setattr(self, name, count)
        if state["rule"] is not None:
            self.rule.load_state_dict(state["rule"])
        if state.get("epoch_over"):
            self._new_epoch()
        if self.best is not None:
            self.best.load_state_dict(state)
        if state["random"] is not None:
            load_random_state(state["random"])

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in COUNTS}

    def _new_epoch(self) -> None:
        """Start running means over."""
        self.rule.new_epoch()
        start_over(self.layers)

    def counters(self) -> State:
        """What the stage counts, JSON-able: with older weights and this, it goes on at the same message."""
        return {
            "counts": self._counts(),
            "version": self.version,
            "done": self.done,
            "rule": self.rule.counters(),
        }

    def restore_counters(self, counters: State) -> int:
        """Count on from the counters of a process of this stage that has died. Gives the updates that were
        lost with it: the steps since the weights that this one has."""
        for name, count in counters["counts"].items():
            setattr(self, name, count)
        self.done = counters["done"]
        self.rule.restore_counters(counters["rule"])
        lost = int(counters["version"]) - self.version
        if self.updater:
            self.updater.count_on(counters["version"])
        return lost

    def _train(self, message: Activation) -> Iterator[Message]:
        buffers = self._buffers()
        x, h = self._forward(message)
        out = clone_if_borrowed(h.detach(), message)
        self.on_phase_end("forward")
        sent = False
        try:
            if not self.is_last:
                check_finite("activation", [out])
                yield self._activation(message, out)
                sent = True
            gradient = self.rule.gradient(message.step, self.version, out, message.y)
        except NonFinite as error:
            self._without(error, buffers)
            yield from self._skip(message, sent)
            return
        if self._delayed is not None:
            self._delayed.stash.put(message.step, self.version, x, h)
        if gradient is not None:
            self.on_phase_end(self.rule.work)
            yield from self._learn(message, x, h, gradient)

    def _forward(self, message: Activation) -> tuple[Tensor, Tensor]:
        self._set_mode(training=True)
        x = message.h.detach()
        if self._delayed is not None:
            x = x.clone()  # it outlives the message
        if self.send_targets and self._has_target(message.step):
            x.requires_grad_()
        if self._delayed is None:
            return x, self.layers(self._unshared(x))
        return x, self._delayed.stash.forward(self.layers, self._unshared(x))

    def _learn(
        self, message: Activation | TargetGradient, x: Tensor, h: Tensor, gradient: Tensor
    ) -> Iterator[Message]:
        """Backward and update, for the batch that went from x to h; `message` brought the occasion."""
        assert self.updater is not None
        if h.requires_grad:
            h.backward(gradient)
        self.on_phase_end("backward")
        try:
            check_finite("gradient", self._at_risk(x))
        except NonFinite as error:
            self._without(error)
            self.skipped += 1
            self.updater.drop()
            yield from self._answer(message, x.detach()[:0])
            return
        yield from self._answer(message, x.grad if x.requires_grad else x.detach()[:0])
        if self._delayed is not None:
            self._delayed.stash.before_update()
        self.updater.step()
        self.on_phase_end("update")

    def _at_risk(self, x: Tensor) -> list[Tensor]:
        """What is about to be sent; where bad batches are to be skipped also what the update follows.
        That costs 2 to 3 % of a step, and a run that stops need not know it before the next activation."""
        assert self.updater is not None
        to_send = [x.grad] if x.grad is not None else []
        return to_send + (self.updater.gradients() if self.skip_nonfinite else [])

    def _has_target(self, step: int) -> bool:
        return step % self.target_every == 0

    def _answer(self, message: Activation | TargetGradient, grad: Tensor | None) -> Iterator[Message]:
        """The target gradient of the batch, if somebody upstream wants it."""
        if self.send_targets:
            assert grad is not None
            self.targets_sent += 1
            yield TargetGradient(message.step, self.version, clone_if_borrowed(grad, message))

    def _buffers(self) -> list[Tensor]:
        """What the layers keep beside weights, copied if it may have to be put back."""
        return [buffer.clone() for buffer in self.layers.buffers()] if self.skip_nonfinite else []

    def _without(self, error: NonFinite, buffers: Sequence[Tensor] = ()) -> None:
        """Go on without what is NaN or infinite, if that is wanted; batch norm's running means, which have
        seen it, are what they were."""
        if not self.skip_nonfinite:
            raise UserError(f"{error}, or go on without such batches by --on-nonfinite skip") from error
        for buffer, before in zip(self.layers.buffers(), buffers, strict=False):
            buffer.data.copy_(before)  # data: a graph that waits shall not take it for a change of its own

    def _skip(self, message: Activation, sent: bool = False) -> Iterator[Message]:
        """No update for this batch, here and, unless its activation was sent, downstream; the messages that
        others count on come all the same, and in the same order."""
        if not sent and not self.is_last:
            yield message.emptied()
        if self._delayed is not None:
            self._delayed.stash.put_nothing(message.step)  # its target will come, and is answered then
        else:
            self.skipped += 1
            yield from self._answer(message, message.h.detach()[:0])

    def _set_mode(self, training: bool) -> None:
        if self.layers.training != training:  # it takes a tenth of a millisecond to say it to ten modules
            self.layers.train(training)

    def _unshared(self, x: Tensor) -> Tensor:
        # a first layer that works in place must touch neither the leaf nor the sender's memory
        return x.clone() if self._in_place else x

    @torch.no_grad()
    def _pass_through(self, message: Activation) -> Iterator[Message]:
        buffers = self._buffers()
        self._set_mode(training=True)
        h = self.layers(self._unshared(message.h))
        self.on_phase_end("forward")
        try:
            check_finite("activation", [h])
            yield self._activation(message, h)
        except NonFinite as error:
            self._without(error, buffers)
            yield from self._skip(message)

    def _evaluate(self, message: Activation) -> Iterator[Message]:
        self._set_mode(training=False)
        with torch.no_grad():
            h = self.layers(self._unshared(message.h))
            if isinstance(self.rule, LossRule):
                self.rule.evaluate(h, message.y)
        self.on_phase_end("evaluate")
        if not self.is_last:
            yield self._activation(message, h)

    def _activation(self, message: Activation, h: Tensor) -> Activation:
        """The message that answers `message` downstream, in memory of its own: it is still on its way
        when the transport upstream takes back what it lent."""
        return Activation(
            message.step,
            self.version,
            clone_if_borrowed(h, message),
            clone_if_borrowed(message.y, message),
            message.train,
        )
