"""A stage: a group of consecutive layers that takes one message and returns messages."""

from __future__ import annotations

from collections.abc import Iterator

from dni_async.messages import Activation, Message, TargetGradient
from dni_async.nonfinite import NonFinite
from dni_async.stage.markers import MarkerHandler


class Stage(MarkerHandler):
    """A pure state machine: no queue, no clock, no rank inside. It knows no rule by name.

        message            handled by
        Activation         training_step: train or evaluate
        TargetGradient     the rule learns from it, or training_step: resume a batch that waited for it
        Marker             markers
        (all of them)      counters: what is counted, saved and restored

    The same stage runs in the simulator, in threads and in torchrun ranks. The last stage has a `LossRule`
    and sends no activations; stage 0, and a stage whose neighbour upstream needs none, sends no targets.

    Args:
        index: number of the stage, from 0.
        layers: of this stage.
        rule: how it gets the gradient at its output.
        updater: what steps its weights.
        send_targets: whether the stage upstream needs target gradients.
        target_every: of one batch in so many (those whose step it divides) the target is the gradient; of the
            others it has no rows, which saves this stage a product and the SG network upstream an update. The
            same in all stages of a network; 1 for a rule that needs every target.
        skip_nonfinite: where an activation, a gradient or a loss is NaN or infinite, skip the batch
            (see `nonfinite`) instead of raising UserError. Weights, optimiser and SG network stay as they
            were, and the neighbours get messages without rows, so no stage waits.
        patience: evaluations are validations; keep the best weights (see `early_stopping`).
        takes, returns: how the input and the output of the layers are packed, if they are more than a tensor
            (see `boundary`, whose `walk` makes them from a batch).
        targets: how a batch's targets are packed: into y, and the last of the extras.
        checks: how it looks for NaN and infinite values; its rule takes the same.
    """

    @property
    def has_room(self) -> bool:
        """Whether an activation may be handled; if not, targets must come first."""
        if self.best is not None and self.best.restoring:
            return False
        return self.rule.has_room and not self._parts.blocking

    def on(self, message: Message) -> Iterator[Message]:
        """Handle any message. Iterate to the end: the work goes on between the messages."""
        if isinstance(message, Activation):
            return self.train(message) if message.train else self.evaluate(message)
        if isinstance(message, TargetGradient):
            return self.on_target(message)
        return self.on_marker(message)

    def on_target(self, message: TargetGradient) -> Iterator[Message]:
        """Handle the target gradient (B, ...) of an earlier batch, which may have no rows."""
        self.targets_received += 1
        self._parts.on_target(message)
        if self.rule.capabilities.keeps_graphs:
            yield from self.resume(message)
        elif not message.grad.is_floating_point():
            return  # it answers an output of whole numbers, which has no gradient
        elif message.empty:
            self.targets_skipped += self.has_target(message.step)
            self.rule.discard(message.step)
        else:
            try:
                self.rule.take_target(message, self.version)
            except NonFinite as error:
                self.without(error)
                self.targets_skipped += 1
            self.on_phase_end(self.rule.phase)
