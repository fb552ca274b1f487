"""How a stage runs its layers on the tensors of a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dni_async.messages import Activation
from dni_async.stage.counters import StageState


class Forward(StageState):
    """What the layers take of a message, and in which memory."""

    def _set_mode(self, training: bool) -> None:
        if self.layers.training != training:  # setting it costs a tenth of a millisecond for ten modules
            self.layers.train(training)

    def _run(self, forward: Callable[[Any], Any], x: Tensor, message: Activation) -> Any:
        """Return what `forward` returns for h = x (B, ...) and the extras of the message.

        It gets a clone of x if it works in place: x may be a leaf or the sender's memory. Whether it does is
        seen with the first batch.
        """
        given = x if self._in_place is False else x.clone()
        output = forward(self._inputs(given, message))
        if self._in_place is None:
            self._in_place = given._version > 0
        return output

    def _inputs(self, x: Tensor, message: Activation) -> Any:
        """Return what the layers take, of h = x (B, ...) and the extras of the message."""
        if self.takes.is_tensor:
            return x
        extras = message.extras[: len(message.extras) - self.targets.extras]
        if self.rule.capabilities.keeps_graphs:
            extras = tuple(extra.clone() for extra in extras)  # they outlive the message
        return self.takes.unpack(x, extras)

    def _targets(self, message: Activation) -> Any:
        """Return the labels of the batch, as its task gave them."""
        if self.targets.is_tensor:
            return message.y
        return self.targets.unpack(message.y, message.extras[len(message.extras) - self.targets.extras :])

    def _buffers(self) -> list[Tensor]:
        """Return copies of the layers' buffers if they may have to be put back."""
        return [buffer.clone() for buffer in self.layers.buffers()] if self.skip_nonfinite else []
