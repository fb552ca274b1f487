"""DNI: update at once with a synthetic gradient; the target trains the SG network later."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor
from typing_extensions import Self, override

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.networks.factory import build_synthesizer, resolve
from dni_async.networks.registry import find_network
from dni_async.rules.base import Rule
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.rules.context import RuleContext
from dni_async.rules.staleness import Staleness
from dni_async.state.state_dict import State
from dni_async.synthesis.predictor import Predictor

MOST_COLUMNS = 2**14
"""Classes that an SG network may see one-hot: with more, the labels of a batch outweigh its activation."""


class DniRule(Rule):
    """Rule `dni`: a synthetic gradient, predicted from h alone.

    step          7        8        9        10
    predict       g7       g8       g9       g10      each used at once
    target                 .        t7       t8       staleness: version now - version then = 2
    """

    capabilities = RuleCapabilities(
        uses_labels=False,
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

    def __init__(self, predictor: Predictor, gate: bool = False) -> None:
        self.predictor = predictor
        self.gate = gate
        """Whether `rate` is the root of `trust`: a stage that guesses slows itself down."""
        self._below = 1.0
        """The trust that came with the last target."""
        self.optimizer = predictor.optimizer
        self._staleness = Staleness()

    @classmethod
    @override
    def build(cls, context: RuleContext) -> Self:
        conditional = cls.capabilities.conditional
        settings = resolve(
            context.sg,
            context.shape,
            context.stages,
            conditional,
            classes=context.classes is not None and context.classes == context.label_size,
            batch_normalised=context.batch_normalised,
            values=context.label_size if conditional and context.classes is None else 0,
            class_count=context.classes or 0,
        )
        network, condition = find_network(settings.kind), context.condition if conditional else None
        if network.takes_class_indices and context.class_indices:
            condition = context.class_indices
        elif condition and context.class_indices and context.label_size > MOST_COLUMNS:
            raise UserError(
                f"SG network {settings.kind} sees labels of {context.label_size} classes as so many columns, "
                f"at most {MOST_COLUMNS}; use --sg.kind head, or write `condition` in the task"
            )
        synthesizer = build_synthesizer(
            settings,
            context.shape,
            label_size=context.label_size,
            condition=condition,
            valid=context.valid,
            pending_capacity=context.pending_capacity,
            device=context.device,
            seed=context.seed,
            guarded=context.guarded,
            schedule=context.schedule if network.follows_schedule else None,
        )
        return cls(synthesizer, bool(settings.gate))

    @property
    @override
    def trust(self) -> float:
        return max(0.0, self.predictor.cosine) * self._below if self.gate else 1.0

    @property
    @override
    def rate(self) -> float:
        return math.sqrt(self.trust)

    @override
    def gradient(self, step: int, version: int, h: Tensor, y: Any) -> Tensor:
        gradient = self.predictor.predict(step, version, h, y)
        self.checks.check("gradient", [gradient])
        return gradient

    @override
    def take_target(self, target: TargetGradient, version: int) -> None:
        self._below = target.trust
        then = self.predictor.take(target)
        if then is not None:
            self._staleness.add(version - then)

    @override
    def discard(self, step: int) -> None:
        self.predictor.discard(step)

    @override
    def stats(self) -> dict[str, Any]:
        gate = {"sg_trust": self.trust} if self.gate else {}
        return self._staleness.stats() | self.predictor.stats() | gate

    @override
    def new_epoch(self) -> None:
        self.predictor.new_epoch()

    @override
    def replay_bytes(self, h: Tensor, y: Any) -> int:
        return self.predictor.replay_bytes(h, y)

    @override
    def counters(self) -> State:
        return self._counts() | {"predictor": self.predictor.counters()}

    @override
    def restore_counters(self, counters: State) -> None:
        self._load_counts(counters)
        self.predictor.restore_counters(counters["predictor"])

    @override
    def state_dict(self) -> State:
        return self._counts() | {"predictor": self.predictor.state_dict()}

    @override
    def load_state_dict(self, state: State) -> None:
        self._load_counts(state)
        self.predictor.load_state_dict(state["predictor"])

    def _counts(self) -> State:
        return {"staleness": self._staleness.state_dict(), "trust_below": self._below}

    def _load_counts(self, counts: State) -> None:
        self._staleness.load_state_dict(counts["staleness"])
        self._below = counts.get("trust_below", 1.0)


class CdniRule(DniRule):
    """Rule `cdni`: a synthetic gradient, predicted from h and the labels."""

    capabilities = replace(
        DniRule.capabilities, uses_labels=True, conditional=True, plot_style=("#0072b2", "*")
    )
