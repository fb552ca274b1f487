"""A recurrent layer that keeps its state, and its gradient through time, from batch to batch."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from dni_async.recurrent.core import RecurrentCore
from dni_async.recurrent.through_time import DISCOUNT, MakePredictor, ThroughTime
from dni_async.state.module_state import StatefulModule
from dni_async.state.state_dict import State


class StatefulRNN(StatefulModule):
    """Runs a recurrent core over long sequences, one window per call.

    ```
    rnn = StatefulRNN(nn.LSTM(64, 256), dni_through_time())      # without the second: truncated BPTT
    layers = nn.Sequential(nn.Embedding(65, 64), rnn, nn.Linear(256, 65))
    for x, y in windows:                                         # (B, T)
        loss(layers(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    ```

    An ordinary loop, a `Stage` or an `Oracle` trains it through time without knowing. In training the state
    is reset after every `sequence` windows (0: never). Evaluation has a state of its own, which is reset by
    `eval()` and, with `one_by_one`, before every window, which then is a whole sequence:

    ```
    window       0    1    2    |  3    4    5          sequence = 3
    training   0 ─ s1 ─ s2 ─  ends 0 ─ s4 ─ s5 ─
    evaluation          eval() 0 ─ e1 ─ e2 ─ train()    continues from s2
    ```

    Backwards must come in the order of the windows, but the next window may run before the backward of the
    last (rule `delayed`). The state is not part of the `state_dict`, but of a stage's checkpoint.

    Args:
        core, predictor, discount, state_bound: see `ThroughTime`.
        sequence: windows per sequence.
        one_by_one: whether each window of an evaluation is a sequence.
    """

    def __init__(
        self,
        core: nn.Module,
        predictor: MakePredictor | None = None,
        *,
        sequence: int = 0,
        one_by_one: bool = False,
        discount: float = DISCOUNT,
        state_bound: float | None = None,
    ) -> None:
        super().__init__()
        self.core = core if isinstance(core, RecurrentCore) else RecurrentCore(core)
        self.sequence = sequence
        self.one_by_one = one_by_one
        self.through_time = ThroughTime(self.core, predictor, discount=discount, state_bound=state_bound)
        self._evaluated: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the core's outputs (B, T, ...) over the window x (B, T, ...), contiguous."""
        if self.training:
            self.through_time(x)
            ends = self.sequence > 0 and (self.through_time.windows + 1) % self.sequence == 0
            out = self.through_time.attach(ends)
        else:
            out, state = self.core(x, self._evaluated)
            self._evaluated = None if self.one_by_one else state.detach()
        # the strides of torch's recurrent modules would not survive a transport
        return out.contiguous()

    def stats(self) -> dict[str, float | None]:
        """Return the largest |state|, and the relative error and the share of the synthetic gradients."""
        stats = self.through_time.stats()
        return {
            "state_max": stats["state_max"],
            "time_sg_error": stats.get("sg_relative_error"),
            "time_sg_share": stats.get("sg_share"),
        }

    @override
    def new_epoch(self) -> None:
        self.through_time.new_epoch()

    @override
    def running_state(self) -> State:
        return self.through_time.state_dict()

    @override
    def load_running_state(self, state: State) -> None:
        self.through_time.load_state_dict(state)

    def train(self, mode: bool = True) -> StatefulRNN:
        """Set the mode, and reset the state used for evaluation."""
        self._evaluated = None
        super().train(mode)
        return self


def set_sequence_length(windows: int, *modules: nn.Module) -> None:
    """Set the windows per sequence of every `StatefulRNN` in the modules that has no number of its own."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, StatefulRNN) and not layer.sequence:
                layer.sequence = windows
