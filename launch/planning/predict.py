"""From a profile to one engine in so many stages: its speed, idle time, memory and staleness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from dni_async.errors import UserError
from dni_async.partition.cut import stage_bounds
from dni_async.rules.registry import capabilities_of, rules_with
from launch.config.partition import PipelineConfig
from launch.engines.micro_batches import candidates, check_given
from launch.local.wan import NO_WIRE, Wire
from launch.planning.distance import all_reduce_seconds
from launch.planning.profile import Profile
from launch.planning.simulator import (
    SCHEDULES,
    StageCost,
    SteadyState,
    simulate_backprop,
    simulate_ddp,
    simulate_decoupled,
    simulate_pipelined,
)
from launch.planning.stage_costs import StageCosts
from workers.transport.in_flight import choose_in_flight

PLANNED_RULES = rules_with("planned")
ENGINES = ("backprop", "ddp", *SCHEDULES, *PLANNED_RULES)
LEAST_SHARE = 2
"""Samples that a replica must have: batch norm cannot train on one."""


@dataclass(slots=True, kw_only=True)
class Prediction:
    """One engine in so many stages; numbers are None where `error` says why there are none."""

    engine: str
    stages: int
    samples_per_s: float | None = None
    speedup: float | None = None
    """Over backprop in one process."""
    bubble: float | None = None
    """Share of time in which the average stage waits."""
    memory_bytes: int | None = None
    """Of the stage that holds most: weights, gradients, optimizer, activations, messages."""
    staleness: float | None = None
    """Of stage 0, in its updates."""
    cut: list[int] = field(default_factory=list)
    micro_batches: int | None = None
    in_flight: int | None = None
    """Messages in flight between decoupled stages."""
    error: str | None = None


class Planner:
    """Predicts from one profile, for batches in flight, stash and micro-batches as in `config`.

    Args:
        wire: between the hosts of the stages; None within one host.
    """

    def __init__(self, profile: Profile, config: PipelineConfig, wire: Wire | None = None) -> None:
        self.profile, self.config, self.wire = profile, config, wire or NO_WIRE
        self.costs = StageCosts(profile, config, self.wire)
        self.layers = len(profile.layers)

    def predict(self, engine: str, stages: int) -> Prediction:
        """Return the prediction for `engine` in so many processes; backprop has one."""
        make: Callable[[str, int], Prediction] = {
            "backprop": self._backprop,
            "ddp": self._ddp,
            **dict.fromkeys(SCHEDULES, self._pipelined),
            **dict.fromkeys(PLANNED_RULES, self._decoupled),
        }[engine]
        try:
            return make(engine, stages)
        except UserError as error:
            return Prediction(engine=engine, stages=stages, error=str(error))

    def backprop(self) -> SteadyState:
        """Return the steady state of backprop, with which all others are compared."""
        return simulate_backprop(self.costs.cost(0, self.layers, self.profile.batch_size))

    def _backprop(self, engine: str, stages: int) -> Prediction:
        memory = self.costs.state_bytes() + self.costs.saved_bytes()
        return self._prediction(engine, 1, self.backprop(), memory, [])

    def _ddp(self, engine: str, stages: int) -> Prediction:
        batch = self.profile.batch_size
        share = math.ceil(batch / stages)
        if share < LEAST_SHARE:
            raise UserError(f"a batch of {batch} is too small for {stages} replicas")
        weights = sum(layer.parameter_bytes for layer in self.profile.layers)
        ring = self.profile.all_reduce
        # torch's DDP copies the gradients into its buckets and back
        copies = 2 * self.profile.link.send.per_byte * weights
        steady = simulate_ddp(
            self.costs.cost(0, self.layers, share),
            stages,
            all_reduce_seconds(ring, stages, weights, self.wire) + copies,
        )
        # torch's DDP keeps the gradients a second time, in buckets
        memory = self.costs.state_bytes() + weights + self.costs.saved_bytes() * share // batch
        return self._prediction(engine, stages, steady, memory, [])

    def _pipelined(self, engine: str, stages: int) -> Prediction:
        """Predict with the user's number of micro-batches, or the fastest of those that the engine tries."""
        cut = self.costs.best_cut("", stages)
        batch = self.profile.batch_size
        given = self.config.micro_batches
        if given:
            check_given(given, batch, stages, engine)
        counts = [given] if given else candidates(batch, stages, engine)
        tried = {m: self._with_micro_batches(engine, cut, m) for m in counts}
        best = min(counts, key=lambda m: tried[m].period)
        steady = tried[best]
        memory = max(
            self.costs.state_bytes(first, end)
            + self.costs.saved_bytes(first, end) * held // best
            + self.costs.input_bytes(first) * held // best
            for (first, end), held in zip(stage_bounds(cut, self.layers), steady.held, strict=True)
        )
        return self._prediction(engine, stages, steady, memory, cut, micro_batches=best)

    def _with_micro_batches(self, engine: str, cut: list[int], count: int) -> SteadyState:
        samples = math.ceil(self.profile.batch_size / count)
        bounds = stage_bounds(cut, self.layers)
        load = self.profile.load  # every process reads whole batches
        costs = [replace(self.costs.cost(*pair, samples), load=load) for pair in bounds]
        return simulate_pipelined(costs, engine, count, batches=2)

    def _decoupled(self, engine: str, stages: int) -> Prediction:
        if engine in self.profile.refused:
            raise UserError(self.profile.refused[engine])
        cut = self.costs.best_cut(engine, stages)
        bounds = stage_bounds(cut, self.layers)
        after = self.costs.interfaces(engine, stages)
        interfaces = [after[end - 1 : end] for _, end in bounds]
        rule = capabilities_of(engine)
        costs = [
            self.costs.cost(*pair, self.profile.batch_size, engine, interface)
            for pair, interface in zip(bounds, interfaces, strict=True)
        ]
        in_flight = self._in_flight(costs)
        steady = simulate_decoupled(
            costs,
            needs_targets=rule.needs_targets,
            keeps_graphs=rule.keeps_graphs,
            in_flight=in_flight,
            stash=[self.config.stash_of(k, stages) for k in range(stages)] if rule.keeps_graphs else None,
            # stashes fill before the pace is steady
            batches=max(96, 5 * stages // 2) if rule.keeps_graphs else max(96, min(512, 200_000 // stages)),
        )
        memory = max(
            self.costs.decoupled_bytes(engine, steady, k, bounds[k], interfaces[k], in_flight)
            for k in range(stages)
        )
        return self._prediction(engine, stages, steady, memory, cut, in_flight=in_flight)

    def _in_flight(self, costs: Sequence[StageCost]) -> int:
        """Return the messages in flight, which --in-flight auto chooses by the distance as a job does."""
        if self.config.in_flight != "auto":
            return self.config.in_flight
        step_s = max(
            max(cost.forward + cost.predict + cost.backward + cost.update + cost.train, cost.activation.wire)
            for cost in costs
        )
        return choose_in_flight(2 * self.wire.latency_s, step_s)

    def _prediction(
        self,
        engine: str,
        stages: int,
        steady: SteadyState,
        memory: int,
        cut: list[int],
        micro_batches: int | None = None,
        in_flight: int | None = None,
    ) -> Prediction:
        return Prediction(
            engine=engine,
            stages=stages,
            samples_per_s=self.profile.batch_size / steady.period,
            speedup=self.backprop().period / steady.period,
            bubble=steady.bubble,
            memory_bytes=memory,
            staleness=steady.staleness[0],
            cut=cut,
            micro_batches=micro_batches,
            in_flight=in_flight,
        )
