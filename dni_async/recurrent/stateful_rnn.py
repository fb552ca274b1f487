"""A recurrent layer among others: it carries its state, and brings its gradient through time, by itself."""

from __future__ import annotations

from torch import Tensor, nn

from dni_async.recurrent.core import RecurrentCore
from dni_async.recurrent.through_time import DISCOUNT, MakePredictor, ThroughTime
from dni_async.state.module_state import StatefulModule
from dni_async.state.state_dict import State


class StatefulRNN(StatefulModule):
    """Runs a recurrent core over the windows of long sequences, one window a call.

    ```
    core = StatefulRNN(nn.LSTM(64, 256), dni_through_time())     # without the second: plain truncated BPTT
    layers = nn.Sequential(nn.Embedding(65, 64), core, nn.Linear(256, 65))
    for x, y in windows:                                     # (B, T)
        loss(layers(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    ```

    So an ordinary loop, a `Stage` or an `Oracle` trains through time and knows nothing of it. In training
    the state starts anew after every `sequence` windows (0: never). Evaluation has a state of its own, which
    every `eval()` starts anew, and if `one_by_one` every window, which then is a whole sequence:

    ```
    window       0    1    2    |  3    4    5          sequence = 3
    training   0 ─ s1 ─ s2 ─  ends 0 ─ s4 ─ s5 ─
    evaluation          eval() 0 ─ e1 ─ e2 ─ train()    goes on from s2
    ```

    core, predictor, discount, state_bound: see `ThroughTime`. Backwards must come in the order of the
    windows, but not each before the next window (rule `delayed`). The state is no part of the `state_dict`,
    but of a stage's checkpoint.
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
        self.through = ThroughTime(self.core, predictor, discount=discount, state_bound=state_bound)
        self._evaluated: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The core's outputs (B, T, ...) over the window x (B, T, ...), contiguous."""
        if self.training:
            self.through(x)
            ends = self.sequence > 0 and (self.through.windows + 1) % self.sequence == 0
            out = self.through.attach(ends)
        else:
            out, state = self.core(x, self._evaluated)
            self._evaluated = None if self.one_by_one else state.detach()
        # torch's recurrent modules give strides of their own, which would not survive a transport
        return out.contiguous()

    def stats(self) -> dict[str, float | None]:
        """The largest |state| carried; of the synthetic gradients through time the relative error and, where
        they are `CalibratedPredictor`, the share that is used."""
        stats = self.through.stats()
        told = {"time_sg_error": stats.get("sg_relative_error"), "time_sg_share": stats.get("sg_share")}
        return {"state_max": stats["state_max"]} | told

    def new_epoch(self) -> None:
        """Start these over."""
        self.through.new_epoch()

    def running_state(self) -> State:
        """The state carried, and the SG network through time at work."""
        return self.through.state_dict()

    def load_running_state(self, state: State) -> None:
        """Go on from there."""
        self.through.load_state_dict(state)

    def train(self, mode: bool = True) -> StatefulRNN:
        """As ever; and sequences to evaluate start anew."""
        self._evaluated = None
        super().train(mode)
        return self


def start_anew_after(windows: int, *modules: nn.Module) -> None:
    """Tell every `StatefulRNN` in the modules that does not know it how many windows a sequence has."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, StatefulRNN) and not layer.sequence:
                layer.sequence = windows
