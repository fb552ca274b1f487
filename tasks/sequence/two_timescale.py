"""Two networks that tick at different rates and must talk to each other (paper, "Multi-Network System").

```
digit        7  3  1  8 │ 3  3  0  5 │ ... │ 2  4  3  6      T = 4: a sequence of T * T digits
network A    .  .  .  3 │ .  .  .  3 │     │ .  .  .  1      ticks with every digit; says after every T
                      │            │             │           how many of them were odd
message               ▼            ▼             ▼
network B             .            .             4           ticks once in T digits; says at the end how
                                                             many threes there were, and sees no digit
```

A has a loss of its own; what its messages should say it learns from B's gradients alone. Each network is a
stage. Backprop unrolls A over T * T digits before it may update (`ticks` = T). With synthetic gradients A
updates after every T digits (`ticks` = 1): one stands in for the gradient of the message, before B has seen
it, and one for that of A's last state. B likewise updates at every tick, with one at its own state.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from typing_extensions import override

from dni_async.checks import at_least
from dni_async.errors import UserError
from dni_async.recurrent.gradient_injection import inject_gradient
from dni_async.recurrent.stateful_rnn import StatefulRNN
from dni_async.state.module_state import StatefulModule
from tasks.contiguous import ContiguousBatches
from tasks.sequence.base import recurrent
from tasks.sequence.stateful import check_window_end, stateful_layer
from tasks.vision.mnist import Mnist

PIXELS = 28 * 28


class TwoTimescale(Mnist):
    """Both networks on MNIST. A sample is `ticks` ticks of network B; accuracy is that of B.

    x (B, ticks * T, 786): pixels, whether a group of T digits begins, A's right answer for the group.
    y (B, ticks, 2): B's right answer at the sequence's end, and whether the sequence ends with this tick.
    """

    name = "two-timescale"
    carries_state = True
    classes = None
    metric_name = "accuracy"
    input_shape = (PIXELS,)

    def __init__(
        self,
        period: int = 4,
        width: int = 128,
        ticks: int = 1,
        end: str = "dni",
        subset: int = 0,
        validation: int = 0,
    ) -> None:
        """Period: T, digits in a tick of network B and its ticks in a sequence; width: units of both networks
        and of the message; ticks: of network B in an update, a divisor of T (T: all of the sequence); end:
        what ends a window, bptt (nothing), dni (a synthetic gradient) or dni-permuted (a control); subset:
        first training images to use, 0 for all; validation: last ones to hold out for --patience."""
        super().__init__(subset, validation)
        self.period, self.width = at_least(1, period=period), at_least(1, width=width)
        self.ticks, self.end = at_least(1, ticks=ticks), check_window_end(end)
        if period % ticks:
            raise UserError(f"ticks is {ticks}; it must divide the {period} ticks of a sequence")

    @override
    def layers(self) -> list[nn.Module]:
        a, b = self._core(), self._core()
        return [NetworkA(self.period, self.width, a), NetworkB(self.period**2 + 1, self.width, b)]

    def _core(self) -> StatefulRNN:
        core = recurrent("lstm", self.width, self.width)
        return stateful_layer(core, self.end, sequence=self.period // self.ticks, one_by_one=True)

    @override
    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        """Return windows of sequences side by side to train on, and whole sequences to test with."""
        train, test = (self._sequences(*dataset.tensors) for dataset in super().data(root))
        windows = self.period // self.ticks
        chunks = [tensor.unflatten(1, (windows, -1)).flatten(0, 1) for tensor in train]
        return ContiguousBatches(*chunks, unit=windows), TensorDataset(*test)

    @override
    def validation(self, root: Path | None) -> TensorDataset | None:
        """Return whole sequences of the training images that were held out."""
        images = super().validation(root)
        return None if images is None else TensorDataset(*self._sequences(*images.tensors))

    def _sequences(self, images: Tensor, digits: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (N, T * T, 786) and y (N, T, 2); what does not fill a sequence is left out."""
        period, length = self.period, self.period**2
        count = len(digits) // length
        digits = digits[: count * length].view(count, period, period)
        odd = (digits % 2).sum(2, keepdim=True).expand_as(digits)
        begins = torch.zeros_like(digits)
        begins[:, :, 0] = 1
        x = images.new_empty(count, length, PIXELS + 2)
        x[..., :PIXELS] = images[: count * length].view(count, length, PIXELS)
        x[..., PIXELS] = begins.flatten(1)
        x[..., PIXELS + 1] = odd.flatten(1)
        threes = (digits == 3).sum((1, 2)).unsqueeze(1).expand(count, period)
        ends = torch.zeros_like(threes)
        ends[:, -1] = 1
        return x, torch.stack([threes, ends], 2)

    @override
    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of B's answers where sequences end, over the rows."""
        each = F.cross_entropy(output.flatten(0, 1), y[..., 0].flatten(), reduction="none")
        return (each * y[..., 1].flatten()).sum() / len(y)

    @override
    def metric(self, output: Tensor, y: Tensor) -> Tensor:
        return (output[:, -1].argmax(-1) == y[:, -1, 0]).float()

    @override
    def condition(self, y: Tensor) -> Tensor:
        """Return (B, ticks, C), B's right answer at the sequence's end, one-hot."""
        return F.one_hot(y[..., 0], self.period**2 + 1).float()


class NetworkA(StatefulModule):
    """The network that sees the digits; it answers, and sends a message, after every `period` of them."""

    def __init__(self, period: int, width: int, core: StatefulRNN) -> None:
        super().__init__()
        self.period = period
        self.encoder = nn.Sequential(nn.Linear(PIXELS + 1, width), nn.ReLU())
        self.core = core
        self.head = nn.Linear(width, period + 1)
        self.new_epoch()

    def forward(self, x: Tensor) -> Tensor:
        """Return the messages (B, ticks, width). In training their backward includes this network's loss."""
        last = slice(self.period - 1, None, self.period)
        messages: Tensor = self.core(self.encoder(x[..., :-1]))[:, last]
        if not (self.training and torch.is_grad_enabled()):
            return messages.contiguous()
        answers, odd = self.head(messages.flatten(0, 1)), x[:, last, -1].flatten().long()
        loss = F.cross_entropy(answers, odd)
        self._count(loss.detach(), (answers.argmax(1) == odd).float().mean())
        return inject_gradient(messages, loss, lambda: torch.ones_like(loss))

    def stats(self) -> dict[str, float | None]:
        """Return the mean loss and accuracy of this network's own answers since `new_epoch`."""
        if not self._batches:
            return {"local_loss": None, "local_accuracy": None}
        loss, accuracy = (float(total) / self._batches for total in self._totals)
        return {"local_loss": loss, "local_accuracy": accuracy}

    def new_epoch(self) -> None:
        """Reset the means of `stats`."""
        self._batches = 0
        self._totals: list[Tensor | float] = [0.0, 0.0]

    def _count(self, *means: Tensor) -> None:
        self._batches += 1
        self._totals = [total + mean for total, mean in zip(self._totals, means, strict=True)]


class NetworkB(nn.Module):
    """The network that sees the messages; it answers at every tick, and the last answer counts."""

    def __init__(self, answers: int, width: int, core: StatefulRNN) -> None:
        super().__init__()
        self.core = core
        self.head = nn.Linear(width, answers)

    def forward(self, messages: Tensor) -> Tensor:
        """Return (B, ticks, answers) for messages (B, ticks, width)."""
        return self.head(self.core(messages))
