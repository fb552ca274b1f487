"""How a stage runs its layers on the tensors of a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dni_async.boundary import Extras
from dni_async.messages import Activation
from dni_async.stage.counters import StageState


class Forward(StageState):
    """What the layers take of a message, and in which memory."""

    def _set_mode(self, training: bool) -> None:
        if self.layers.training != training:  # setting it costs a tenth of a millisecond for ten modules
            self.layers.train(training)

    def _run(self, forward: Callable[[Any], Any], x: Tensor, message: Activation) -> Any:
        """Return what `forward` returns for h = x (B, ...) and the extras of the message.

        It gets clones if it works in place: x may be a leaf or, like the extras, in the sender's memory.
        Whether it does is seen with the first training batch.
        """
        extras, _ = self._split_extras(message)
        if self._in_place is not False:
            x = x.clone()
        if (
            self._in_place is not False or self.rule.capabilities.keeps_graphs
        ):  # kept, they outlive the message
            extras = tuple(extra.clone() for extra in extras)
        output = forward(x if self.takes.is_tensor else self.takes.unpack(x, extras))
        if self._in_place is None and self.layers.training:
            self._in_place = any(tensor._version for tensor in (x, *extras))
        return output

    def _split_extras(self, message: Activation) -> tuple[Extras, Extras]:
        """Return the tensors of the message beside h, and those beside the first labels."""
        count = len(message.extras) - self.targets.extras
        return message.extras[:count], message.extras[count:]

    def _targets(self, message: Activation) -> Any:
        """Return the labels of the batch, as its task gave them."""
        if self.targets.is_tensor:
            return message.y
        return self.targets.unpack(message.y, self._split_extras(message)[1])

    def _buffers(self) -> list[Tensor]:
        """Return copies of the layers' buffers if they may have to be put back."""
        return [buffer.clone() for buffer in self.layers.buffers()] if self.skip_nonfinite else []
