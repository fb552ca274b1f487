"""DNI: update at once with a synthetic gradient; the target trains the SG network later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor
from typing_extensions import Self

from dni_async.messages import TargetGradient
from dni_async.networks.factory import build_synthesizer, resolve
from dni_async.networks.registry import find_network
from dni_async.nonfinite import check_finite
from dni_async.rules.base import Rule
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.rules.context import RuleContext
from dni_async.rules.staleness import Staleness
from dni_async.state.state_dict import State
from dni_async.synthesis.synthesizer import Synthesizer


class Predictor(Protocol):
    """A `Synthesizer`, or an `Oracle` in its place."""

    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        """The gradient at h, now."""

    def take(self, target: TargetGradient) -> int | None:
        """Learn from a target; the weight version of its prediction, None when it is not known."""

    def stats(self) -> dict[str, Any]:
        """What a report shows."""

    def new_epoch(self) -> None:
        """Start running means over."""


class StagePredictor(Predictor, Protocol):
    """One that a stage can keep in a checkpoint, and that learns to do without a target."""

    def discard(self, step: int) -> None:
        """No target will come for this batch."""

    def counters(self) -> State:
        """What it counts."""

    def restore_counters(self, counters: State) -> None:
        """Count on from there, and forget what waits."""

    def state_dict(self) -> State:
        """What it goes on from in a resumed run."""

    def load_state_dict(self, state: State) -> None:
        """Go on from there."""


class DniRule(Rule):
    """Rule `dni`: a synthetic gradient, predicted from h alone.

    step          7        8        9        10
    predict       g7       g8       g9       g10      each used at once
    target                 .        t7       t8       staleness: version now - version then = 2
    """

    capabilities = RuleCapabilities(
        sparse_targets=True,
        has_network=True,
        supervised=True,
        resumable=True,
        restarts_after_recut="SG networks",
        skips_nonfinite=True,
        compiles=True,
        planned=True,
        plot_style=("#cc79a7", "<"),
    )

    def __init__(self, predictor: StagePredictor) -> None:
        self.predictor = predictor
        self.optimizer = predictor.optimizer if isinstance(predictor, Synthesizer) else None
        self._staleness = Staleness()

    @classmethod
    def build(cls, context: RuleContext) -> Self:
        """With a new SG network, conditional if the rule is."""
        conditional = cls.capabilities.conditional
        settings = resolve(
            context.sg,
            context.shape,
            context.stages,
            conditional,
            classes=context.classes is not None and context.classes == context.label_size,
            batch_normalised=context.batch_normalised,
        )
        synthesizer = build_synthesizer(
            settings,
            context.shape,
            label_size=context.label_size,
            condition=context.condition if conditional else None,
            pending_capacity=context.pending_capacity,
            device=context.device,
            seed=context.seed,
            guarded=context.guarded,
            schedule=context.schedule if find_network(settings.kind).follows_schedule else None,
        )
        return cls(synthesizer)

    def gradient(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        """The synthetic gradient at h (B, ...)."""
        gradient = self.predictor.predict(step, version, h, y)
        check_finite("gradient", [gradient])
        return gradient

    def take_target(self, target: TargetGradient, version: int) -> None:
        """Train the SG network."""
        then = self.predictor.take(target)
        if then is not None:
            self._staleness.add(version - then)

    def discard(self, step: int) -> None:
        """Nothing to learn from this batch."""
        self.predictor.discard(step)

    def stats(self) -> dict[str, Any]:
        """Staleness and the SG network's agreement with its targets."""
        return self._staleness.stats() | self.predictor.stats()

    def new_epoch(self) -> None:
        """Start the SG network's running means over; staleness counts through the run."""
        self.predictor.new_epoch()

    def counters(self) -> State:
        """Staleness and agreement."""
        return {"staleness": self._staleness.state_dict(), "predictor": self.predictor.counters()}

    def restore_counters(self, counters: State) -> None:
        """Count on from there; targets of predictions that were made elsewhere are unmatched."""
        self._staleness.load_state_dict(counters["staleness"])
        self.predictor.restore_counters(counters["predictor"])

    def state_dict(self) -> State:
        """The SG network at work, and staleness."""
        return {"staleness": self._staleness.state_dict(), "predictor": self.predictor.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Go on from there."""
        self._staleness.load_state_dict(state["staleness"])
        self.predictor.load_state_dict(state["predictor"])

    def replay_bytes(self, h: Tensor, y: Tensor) -> int:
        """Returns the bytes of a full replay window."""
        return self.predictor.replay_bytes(h, y) if isinstance(self.predictor, Synthesizer) else 0


class CdniRule(DniRule):
    """Rule `cdni`: a synthetic gradient, predicted from h and the labels."""

    capabilities = replace(DniRule.capabilities, conditional=True, plot_style=("#0072b2", "*"))
