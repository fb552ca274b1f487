"""From a profile to one engine in so many stages: what every stage costs, holds and waits for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dni_async.errors import UserError
from dni_async.partition.costs import Costs
from dni_async.partition.cut import best_cut, stage_bounds
from dni_async.rules.registry import capabilities_of, rules_with
from launch.config.train import JobConfig
from launch.engines.micro_batches import candidates, check_given
from launch.planning.profile import InterfaceProfile, LayerProfile, Profile
from launch.planning.simulator import (
    SCHEDULES,
    Forecast,
    MessageCost,
    StageCost,
    forecast_backprop,
    forecast_ddp,
    forecast_decoupled,
    forecast_pipelined,
)
from launch.planning.simulator.whole import ring_all_reduce
from workers.transport.link_benchmark import LinkCost

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
    error: str | None = None


class Planner:
    """Predicts from one profile, for batches in flight, stash and micro-batches as in `config`."""

    def __init__(self, profile: Profile, config: JobConfig) -> None:
        self.profile, self.config = profile, config
        self.layers = profile.layers

    def predict(self, engine: str, stages: int) -> Prediction:
        """`stages` processes of `engine`; backprop has one."""
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

    def backprop(self) -> Forecast:
        """What all others are compared with."""
        return forecast_backprop(self._cost(0, len(self.layers), self.profile.batch_size))

    # --- one engine each

    def _backprop(self, engine: str, stages: int) -> Prediction:
        memory = _state(self.layers) + _saved(self.layers)
        return self._told(engine, 1, self.backprop(), memory, [])

    def _ddp(self, engine: str, stages: int) -> Prediction:
        batch = self.profile.batch_size
        share = math.ceil(batch / stages)
        if share < LEAST_SHARE:
            raise UserError(f"a batch of {batch} is too small for {stages} replicas")
        weights = sum(layer.parameter_bytes for layer in self.layers)
        ring = self.profile.all_reduce
        forecast = forecast_ddp(
            self._cost(0, len(self.layers), share),
            stages,
            ring_all_reduce(stages, weights, ring.start, ring.per_byte),
        )
        # torch's DDP keeps the gradients a second time, in buckets
        memory = _state(self.layers) + weights + _saved(self.layers) * share // batch
        return self._told(engine, stages, forecast, memory, [])

    def _pipelined(self, engine: str, stages: int) -> Prediction:
        """With the user's number of micro-batches, or the fastest of those that the engine would try."""
        cut = self._cut("", stages)
        batch = self.profile.batch_size
        least = stages if engine == "1f1b" else 1  # torch's Schedule1F1B refuses fewer
        given = self.config.micro_batches
        if given:
            check_given(given, batch, least)
        counts = [given] if given else candidates(batch, stages, least)
        tried = {m: self._with_micro_batches(engine, cut, m) for m in counts}
        best = min(counts, key=lambda m: tried[m].period)
        forecast = tried[best]
        bounds = stage_bounds(cut, len(self.layers))
        memory = max(
            _state(self.layers[first:end])
            + _saved(self.layers[first:end]) * held // best
            + self._received(first) * held // best
            for (first, end), held in zip(bounds, forecast.held, strict=True)
        )
        return self._told(engine, stages, forecast, memory, cut, micro_batches=best)

    def _with_micro_batches(self, engine: str, cut: list[int], count: int) -> Forecast:
        samples = math.ceil(self.profile.batch_size / count)
        costs = [
            self._cost(*bounds, samples, link=self.profile.gloo)
            for bounds in stage_bounds(cut, len(self.layers))
        ]
        return forecast_pipelined(costs, engine, count, batches=2)

    def _decoupled(self, engine: str, stages: int) -> Prediction:
        if engine in self.profile.refused:
            raise UserError(self.profile.refused[engine])
        cut = self._cut(engine, stages)
        bounds = stage_bounds(cut, len(self.layers))
        interfaces = self._interfaces(engine, stages)
        rule = capabilities_of(engine)
        costs = [
            self._cost(
                first, end, self.profile.batch_size, self.profile.link, engine, interfaces[end - 1 : end]
            )
            for first, end in bounds
        ]
        forecast = forecast_decoupled(
            costs,
            needs_targets=rule.needs_targets,
            keeps_graphs=rule.keeps_graphs,
            in_flight=self.config.in_flight,
            stash=[self.config.stash_of(k, stages) for k in range(stages)] if rule.keeps_graphs else None,
            # stashes fill before the pace is steady
            batches=max(96, 5 * stages // 2) if rule.keeps_graphs else max(96, min(512, 200_000 // stages)),
        )
        memory = max(
            self._held(engine, forecast, k, *pair, interfaces[pair[1] - 1 : pair[1]])
            for k, pair in enumerate(bounds)
        )
        return self._told(engine, stages, forecast, memory, cut)

    def _told(
        self,
        engine: str,
        stages: int,
        forecast: Forecast,
        memory: int,
        cut: list[int],
        micro_batches: int | None = None,
    ) -> Prediction:
        return Prediction(
            engine=engine,
            stages=stages,
            samples_per_s=self.profile.batch_size / forecast.period,
            speedup=self.backprop().period / forecast.period,
            bubble=forecast.bubble,
            memory_bytes=memory,
            staleness=forecast.staleness[0],
            cut=cut,
            micro_batches=micro_batches,
        )

    # --- what a stage costs

    def _interfaces(self, rule: str, stages: int) -> list[InterfaceProfile]:
        every = self.config.target_every
        return [
            replace(interface, cost=interface.cost.per_target(every))
            for interface in self.profile.interfaces_of(rule, stages)
        ]

    def _cut(self, rule: str, stages: int) -> list[int]:
        interfaces = [interface.cost for interface in self._interfaces(rule, stages)]
        return best_cut(Costs([layer.batch for layer in self.layers], interfaces), stages)

    def _cost(
        self,
        first: int,
        end: int,
        samples: int,
        link: LinkCost | None = None,
        rule: str = "",
        interface: list[InterfaceProfile] | None = None,
    ) -> StageCost:
        """A stage of these layers on so many samples.

        link: between it and its neighbours. interface: the network at its output, [] on the last stage.
        """
        layers, share = self.layers[first:end], samples / self.profile.batch_size
        update = self._section("update", [layer for layer in layers if layer.parameter_bytes], samples)
        activation = target = MessageCost()
        if link is not None and end < len(self.layers):
            activation = _message(link, share * (layers[-1].output_bytes + self.profile.label_bytes))
        if link is not None and first > 0:
            target = _message(link, share * self._received(first))
        if rule and capabilities_of(rule).keeps_graphs and end < len(self.layers):
            # copies the weights that stashed batches went through
            update += self.profile.link.send.per_byte * sum(layer.parameter_bytes for layer in layers)
        return StageCost(
            forward=self._section("forward", layers, samples),
            backward=self._section("backward", layers, samples),
            update=update,
            load=self.profile.load * share if first == 0 else 0.0,
            predict=interface[0].cost.predict if interface else 0.0,
            train=interface[0].cost.train if interface else 0.0,
            activation=activation,
            target=target,
        )

    def _section(self, kind: str, layers: list[LayerProfile], samples: int) -> float:
        """Seconds of one section of a stage: what a stage pays once is in every layer's own cost."""
        each = [self._at(getattr(layer.batch, kind), getattr(layer.part, kind), samples) for layer in layers]
        fixed = getattr(self.profile.fixed, kind)
        return max([0.0, *each, sum(each) - (len(each) - 1) * fixed])

    def _at(self, batch: float, part: float, samples: int) -> float:
        """Seconds on so many samples, by the line through the whole batch and the part."""
        whole, some = self.profile.batch_size, self.profile.part_size
        if samples == whole or whole == some:
            return batch * samples / whole
        per_sample = max(0.0, (batch - part) / (whole - some))
        return max(0.0, batch - per_sample * (whole - samples))

    # --- what a stage holds

    def _received(self, first: int) -> int:
        """Bytes of one batch as it arrives at the stage that begins with layer `first`."""
        return self.layers[first - 1].output_bytes if first else 0

    def _held(
        self,
        rule: str,
        forecast: Forecast,
        k: int,
        first: int,
        end: int,
        interface: list[InterfaceProfile],
    ) -> int:
        """Bytes of stage k of a decoupled run, when all that may be held is."""
        layers, able = self.layers[first:end], capabilities_of(rule)
        h = layers[-1].output_bytes if end < len(self.layers) else 0
        slots = forecast.in_flight[k] * (h + self.profile.label_bytes)
        if able.needs_targets:
            slots += self.config.in_flight * self._received(first)
        own = _state(layers) + sum(network.state_bytes + network.replay_bytes for network in interface)
        held, saved = forecast.held[k], _saved(layers)
        if able.keeps_graphs:
            weights = sum(layer.parameter_bytes for layer in layers)
            copies = min(max(0, held - 1), math.ceil(forecast.staleness[k])) * weights
            return own + slots + copies + max(1, held) * (saved + self._received(first))
        labels = self.profile.condition_bytes if able.conditional else 0
        return own + slots + saved + held * (h + labels)


def _message(link: LinkCost, size: float) -> MessageCost:
    return MessageCost(
        send=link.send(size), latency=link.latency(size), receive=link.receive(size), credit=link.credit(0)
    )


def _state(layers: list[LayerProfile]) -> int:
    """Bytes of weights, their gradients, and the optimizer."""
    return sum(2 * layer.parameter_bytes + layer.optimizer_bytes for layer in layers)


def _saved(layers: list[LayerProfile]) -> int:
    """Bytes that autograd keeps of one batch."""
    return sum(layer.saved_bytes for layer in layers)
