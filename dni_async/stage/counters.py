"""What a stage counts, and how its whole state is saved and restored.

resume              load_state_dict: weights, optimiser, rule, counts and random numbers, bit for bit
restart (--supervise)
                    load_state_dict of the last checkpoint, then restore_counters of the process that died
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from dni_async.boundary import TENSOR, Boundary
from dni_async.contract import check_report
from dni_async.early_stopping import Best, Patience
from dni_async.nonfinite import AT_ONCE, FiniteChecks
from dni_async.optim import Updater
from dni_async.ownership import starts_in_place
from dni_async.rules.base import Rule
from dni_async.state.checkpoint import Parts, load_weights_state, weights_state
from dni_async.state.module_state import collect_stats, reset_epoch_stats
from dni_async.state.state_dict import State, load_random_state, random_state

COUNTS = ("steps", "samples", "targets_sent", "targets_received", "skipped", "targets_skipped")


class StageState:
    """Layers, rule and optimiser of one stage, and its counts since the start of the run.

    See `Stage` for the arguments.
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
        takes: Boundary = TENSOR,
        returns: Boundary = TENSOR,
        targets: Boundary = TENSOR,
        checks: FiniteChecks = AT_ONCE,
    ) -> None:
        self.index = index
        self.checks = rule.checks = checks
        self.layers = layers.train()
        self.rule = rule
        self.updater = updater if rule.capabilities.updates else None
        self.send_targets = send_targets
        self.target_every = target_every
        self.skip_nonfinite = skip_nonfinite
        self.takes, self.returns, self.targets = takes, returns, targets
        self.best = Best(layers, patience) if patience else None
        self.done = False
        """Whether the STOP marker has gone back: no message will come any more."""
        self.steps = self.samples = 0
        """Training batches, and samples in them."""
        self.targets_sent = self.targets_received = 0
        self.skipped = 0
        """Training batches that the stage did not learn from."""
        self.targets_skipped = 0
        """Targets that were skipped because they were empty or not finite."""
        self.on_phase_end: Callable[[str], None] = lambda phase: None
        """Called when a phase of the work ends: forward, backward, update, sg, head, evaluate, checkpoint."""
        self.save_checkpoint: Callable[[int, State | None], dict[str, Any]] = lambda step, part: {}
        """Called with the stage's part of the checkpoint of a step, or None if it was lost with a process
        that died. What it returns is added to the marker's body."""
        self._parts = Parts(self.state_dict, copy_late=rule.capabilities.keeps_graphs)
        in_place = starts_in_place(layers)
        self._in_place = in_place if in_place or rule.capabilities.keeps_graphs else None
        """Whether the layers overwrite their input; None before the first batch has shown it, for which that
        gets a clone. A rule that keeps graphs would keep the clone, too: there only modules are asked."""

    @property
    def is_last(self) -> bool:
        """Whether this stage computes the loss."""
        return self.rule.computes_loss

    @property
    def version(self) -> int:
        """Optimiser steps taken so far."""
        return self.updater.version if self.updater else 0

    def averaged(self) -> AbstractContextManager[None]:
        """Have the weights be their averages inside a block, if there are any."""
        return self.updater.averaged() if self.updater else nullcontext()

    def stats(self) -> dict[str, Any]:
        """Return all counts and what rule and layers report, JSON-able."""
        counts = {"index": self.index, "version": self.version} | self._counts()
        if self.updater and self.updater.scaler:
            counts = counts | self.updater.scaler.stats()
        return counts | check_report(self.rule, "stats", self.rule.stats()) | collect_stats(self.layers)

    def state_dict(self) -> State:
        """Return everything that a resumed run needs to continue bit for bit."""
        return weights_state(self.layers, self.updater) | {
            "rule": self.rule.state_dict(),
            "counts": self._counts(),
            "random": random_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Take up a part of a checkpoint.

        After a recut the part has no state of the rule, which starts afresh, and every target counts as
        received.

        Raises:
            RuntimeError, ValueError, KeyError: the part is of other layers or another rule.
        """
        load_weights_state(self.layers, self.updater, state)
        steps = state["counts"]["steps"]
        answered = {
            "targets_sent": steps * self.send_targets,
            "targets_received": steps * self.rule.capabilities.needs_targets,
        }
        self._load_counts(answered | state["counts"])
        if state["rule"] is not None:
            self.rule.load_state_dict(state["rule"])
        if state.get("epoch_over"):
            self.new_epoch()
        if self.best is not None:
            self.best.load_state_dict(state)
        if state["random"] is not None:
            load_random_state(state["random"])

    def counters(self) -> State:
        """Return what the stage counts, JSON-able and without tensors.

        A stage with older weights and these counters continues at the same message.
        """
        return {
            "counts": self._counts(),
            "version": self.version,
            "done": self.done,
            "rule": self.rule.counters(),
        }

    def restore_counters(self, counters: State) -> int:
        """Take up the counters of a process of this stage that has died.

        Returns:
            The updates that were lost with that process: its steps since the weights of this one.
        """
        self._load_counts(counters["counts"])
        self.done = counters["done"]
        self.rule.restore_counters(counters["rule"])
        lost = int(counters["version"]) - self.version
        if self.updater:
            self.updater.count_on(counters["version"])
        return lost

    def new_epoch(self) -> None:
        """Start the means over the epoch over, in the rule and in the layers."""
        self.rule.new_epoch()
        reset_epoch_stats(self.layers)

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in COUNTS}

    def _load_counts(self, counts: dict[str, int]) -> None:
        for name, count in counts.items():
            setattr(self, name, count)
