"""An SG network in use: predict, remember, and learn from the late target."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from dni_async.learning_rates import LearningRates
from dni_async.messages import TargetGradient
from dni_async.networks.base import DNINetwork, check_prediction, without_autocast
from dni_async.nonfinite import check_finite
from dni_async.optim import gradients
from dni_async.state.state_dict import State, load_optimizer_state, optimizer_state
from dni_async.synthesis.agreement import Agreement
from dni_async.synthesis.pending import PendingPrediction, PendingPredictions, in_own_memory, some_samples
from dni_async.synthesis.predictor import Predictor
from dni_async.synthesis.scale import GradientScale

Condition = Callable[[Any], Tensor]


class Synthesizer(Predictor):
    """Predicts the gradient at once, and trains the SG network when the target comes.

        predict(7)  predict(8)  take(7)      predict(9)  take(8) ...
           |           |           |
           g7          g8       regress a fresh prediction for the remembered (h7, y7) on t7,
                                then `replay` steps on tuples drawn from the last `replay_window`

    The SG network works in the precision of its own weights, outside any autocast: its targets are too
    small for 16 bits. The gradient is returned in the precision of h.

    Args:
        condition: y (B, ...) -> (B, C) floats or class indices, for conditional DNI; None for plain DNI.
        valid: y -> which labels count in the loss, in the shape of y; None where all of them do.
        scale: units of the gradients that the network works in.
        replay: extra steps per target, on tuples of the last `replay_window` batches, chosen by `seed`.
        schedule: factor of the learning rate by the version of the stage's weights when it predicted; None:
            constant.
        guarded: raise NonFinite before the network learns from NaN or infinite gradients.
    """

    optimizer: Optimizer
    measure_every = 8
    """One target in so many is compared with its prediction, because the comparison costs time."""

    def __init__(
        self,
        network: DNINetwork,
        optimizer: Optimizer,
        pending: PendingPredictions,
        *,
        condition: Condition | None = None,
        valid: Condition | None = None,
        scale: GradientScale | None = None,
        replay: int = 0,
        replay_window: int = 16,
        seed: int = 0,
        guarded: bool = False,
        schedule: Callable[[int], float] | None = None,
    ) -> None:
        self.network, self.optimizer, self.pending = network, optimizer, pending
        self.condition, self.valid = condition, valid
        self.scale = scale or GradientScale()
        self.replay, self.guarded = replay, guarded
        self.updates = 0
        self.agreement: Agreement = Agreement()
        self._recent: deque[tuple[PendingPrediction, Tensor]] = deque(maxlen=replay_window)
        self._generator = torch.Generator().manual_seed(seed)
        self._taken = self._most_bytes = 0
        self._rates = LearningRates(optimizer, schedule)

    @override
    def predict(self, step: int, version: int, h: Tensor, y: Any) -> Tensor:
        pending, gradient = self.synthesize(version, h, y)
        self.pending.put(step, pending)
        self._most_bytes = max(self._most_bytes, self.held_bytes())
        return gradient

    @override
    def take(self, target: TargetGradient) -> int | None:
        pending = self.pending.pop(target.step)
        if pending is None:
            return None
        self.learn(pending, target.grad)
        return pending.version

    @override
    def discard(self, step: int) -> None:
        self.pending.discard(step)

    def synthesize(self, version: int, h: Tensor, y: Any) -> tuple[PendingPrediction, Tensor]:
        """Return what must be kept until the target comes, for `learn`, and the gradient (B, ...) at h.

        Raises UserError if the SG network's output has another shape than h.
        """
        self._rates.set(version)
        network, labels = self.network, self._labels(y)
        inputs = self._cast(h, labels)
        hidden = network.start(inputs[0])
        with without_autocast(h):
            prediction = network.synthesize(*inputs)
        check_prediction(network, prediction, h)
        if network.learns_when_predicting:
            self._update()
        share = 1.0 if self.valid is None or y is None else float(self.valid(y).float().mean())
        gradient = self.scale.to_stage(prediction, share).to(h.dtype)
        return PendingPrediction(h, labels, version, hidden, share), gradient

    def learn(self, pending: PendingPrediction, target: Tensor) -> None:
        """Learn from the target gradient (B, ...) of a batch that `synthesize` predicted for."""
        if not pending.share:
            return
        self._rates.set(pending.version)  # a resumed run may learn before it predicts
        measured = self._taken % self.measure_every == 0
        self._taken += 1
        if not (measured or self.network.learned_share):
            return
        wanted = self.scale.to_network(target.to(self._weight().dtype), pending.share)
        prediction, target = self._learn(pending, wanted)
        if measured:
            check_prediction(self.network, prediction, target)
            self.agreement.add(prediction, target, self.measure_every)
        if self.replay:
            self._recent.append((pending, wanted))
            self._most_bytes = max(self._most_bytes, self.held_bytes())
            for _ in range(self.replay):
                drawn = int(torch.randint(len(self._recent), (), generator=self._generator))
                self._learn(*self._recent[drawn])

    @override
    def stats(self) -> dict[str, Any]:
        return self.agreement.stats() | {
            "sg_updates": self.updates,
            "targets_dropped": self.pending.dropped,
            "targets_unmatched": self.pending.unmatched,
            "held_bytes": self._most_bytes,
        }

    @override
    def new_epoch(self) -> None:
        self.agreement.clear()

    def forget(self) -> None:
        """Empty the replay window, as when the network moves to another device or type."""
        self._recent.clear()

    def held_bytes(self) -> int:
        """Return the bytes of the pending predictions and of the replay window."""
        replay = sum(pending.nbytes + wanted.nbytes for pending, wanted in self._recent)
        return self.pending.held_bytes + replay

    @override
    def replay_bytes(self, h: Tensor, y: Any) -> int:
        if not self.replay:
            return 0
        labels = self.condition(y).nbytes if self.condition else 0
        return (self._recent.maxlen or 0) * (2 * h.nbytes + labels)

    @override
    def counters(self) -> State:
        pending = self.pending
        return self._counts() | {"pending": {"dropped": pending.dropped, "unmatched": pending.unmatched}}

    @override
    def restore_counters(self, counters: State) -> None:
        self._load_counts(counters)
        pending = counters["pending"]
        self.pending.clear()  # targets that are under way will be unmatched
        self.pending.dropped, self.pending.unmatched = pending["dropped"], pending["unmatched"]

    @override
    def state_dict(self) -> State:
        return {
            "network": self.network.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "pending": self.pending.state_dict(),
            "scale": self.scale.state_dict(),
            "recent": [pending.state_dict() | {"wanted": wanted} for pending, wanted in self._recent],
            "draws": self._generator.get_state(),
        } | self._counts()

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned; a recurrent network begins a new sequence."""
        self.network.load_state_dict(state["network"])
        self.network.reset()
        load_optimizer_state(self.optimizer, state["optimizer"])
        device = self._weight().device
        self.pending.load_state_dict(state["pending"], device)
        self.scale.load_state_dict(state["scale"])
        self._recent.clear()
        self._recent.extend(
            (PendingPrediction.from_state(row, device), row["wanted"].to(device)) for row in state["recent"]
        )
        self._generator.set_state(state["draws"])
        self._load_counts(state)

    def _counts(self) -> State:
        return {
            "agreement": self.agreement.state_dict(),
            "updates": self.updates,
            "taken": self._taken,
            "most_bytes": self._most_bytes,
        }

    def _load_counts(self, counts: State) -> None:
        self.agreement.load_state_dict(counts["agreement"])
        self.updates, self._taken, self._most_bytes = counts["updates"], counts["taken"], counts["most_bytes"]

    def _labels(self, y: Any) -> Tensor | None:
        if self.condition is None or y is None:
            return None
        return in_own_memory(self.condition(y), y)

    def _learn(self, pending: PendingPrediction, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prediction and the target (B, ...) of the samples that the network has learned from."""
        if 0 < (share := self.network.learned_share) < 1:
            samples = some_samples(len(wanted), share, self._generator)
            pending, wanted = pending.part(samples), wanted[samples]
        h, labels = self._cast(pending.h, pending.labels)
        with self.network.at(pending.hidden), without_autocast(h):
            if not share:  # targets only measure it
                with torch.no_grad():
                    return self.network._predict(h, pending.hidden, labels)[0], wanted
            prediction = self.network.regress(h, labels, wanted)
        self._update()
        return prediction, wanted

    def _cast(self, h: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        dtype = self._weight().dtype
        return h.to(dtype), labels.to(dtype) if labels is not None and labels.is_floating_point() else labels

    def _weight(self) -> Tensor:
        weight: Tensor = self.optimizer.param_groups[0]["params"][0]
        return weight

    def _update(self) -> None:
        try:
            if self.guarded:
                check_finite("gradient of the SG network", gradients(self.optimizer))
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad()
        self.updates += 1
