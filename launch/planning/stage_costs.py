"""What a stage costs and holds, from the profile of its layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dni_async.partition.costs import Costs
from dni_async.partition.cut import cut_with_weights
from dni_async.rules.registry import capabilities_of
from launch.config.partition import PipelineConfig
from launch.local.wan import NO_WIRE, Wire
from launch.planning.distance import gloo_message, streamed_message
from launch.planning.profile import InterfaceProfile, LayerProfile, Profile
from launch.planning.simulator import MessageCost, StageCost, SteadyState


class StageCosts:
    """Seconds and bytes of the stages of a profiled network, with batches in flight as in `config`.

    Args:
        wire: between the hosts of the stages.
    """

    def __init__(self, profile: Profile, config: PipelineConfig, wire: Wire = NO_WIRE) -> None:
        self.profile, self.config, self.wire = profile, config, wire
        self.layers = profile.layers

    def interfaces(self, rule: str, stages: int) -> list[InterfaceProfile]:
        """Return the network of the rule after each layer but the last; its training costs per batch."""
        every = self.config.target_every
        return [
            replace(interface, cost=interface.cost.per_target(every))
            for interface in self.profile.interfaces_of(rule, stages)
        ]

    def best_cut(self, rule: str, stages: int) -> list[int]:
        """Return the first layer of each stage but the first."""
        interfaces = [interface.cost for interface in self.interfaces(rule, stages)]
        has_weights = [layer.parameter_bytes > 0 for layer in self.layers]
        return cut_with_weights(
            Costs([layer.batch for layer in self.layers], interfaces), has_weights, stages
        )

    def cost(
        self,
        first: int,
        end: int,
        samples: int,
        rule: str = "",
        interface: Sequence[InterfaceProfile] = (),
    ) -> StageCost:
        """Return the seconds of a stage of layers `first` to `end` on so many samples.

        Args:
            rule: of the stage; without one its messages are those of torch's pipelines.
            interface: the network at its output, none on the last stage.
        """
        layers, share = self.layers[first:end], samples / self.profile.batch_size
        update = self._section("update", [layer for layer in layers if layer.parameter_bytes], samples)
        activation = target = MessageCost()
        if end < len(self.layers):
            size = share * self._message_bytes(rule, end)
            activation = self._message(rule, size)
        if first > 0:
            target = self._message(rule, share * self.input_bytes(first))
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

    def _message_bytes(self, rule: str, end: int) -> int:
        """Return the bytes of a batch on its way downstream, behind layer `end` - 1."""
        layer = self.layers[end - 1]
        labels = self.profile.label_bytes if rule else 0  # processes of torch's pipelines read their own
        return layer.output_bytes + layer.extra_bytes + labels

    def _message(self, rule: str, size: float) -> MessageCost:
        if rule:
            return streamed_message(self.profile.link, size, self.wire)
        return gloo_message(self.profile.gloo, size, self.wire)

    def _section(self, kind: str, layers: list[LayerProfile], samples: int) -> float:
        """Return the seconds of one section; what a stage pays once is in every layer's own cost."""
        each = [self._at(getattr(layer.batch, kind), getattr(layer.part, kind), samples) for layer in layers]
        fixed = getattr(self.profile.fixed, kind)
        return max([0.0, *each, sum(each) - (len(each) - 1) * fixed])

    def _at(self, batch: float, part: float, samples: int) -> float:
        """Return the seconds on so many samples, by the line through the whole batch and the part."""
        whole, some = self.profile.batch_size, self.profile.part_size
        if samples == whole or whole == some:
            return batch * samples / whole
        per_sample = max(0.0, (batch - part) / (whole - some))
        return max(0.0, batch - per_sample * (whole - samples))

    def input_bytes(self, first: int) -> int:
        """Return the bytes of one batch as it arrives at the stage that begins with layer `first`."""
        return self.layers[first - 1].output_bytes if first else 0

    def state_bytes(self, first: int = 0, end: int | None = None) -> int:
        """Return the bytes of weights, their gradients, and the optimizer."""
        return sum(2 * layer.parameter_bytes + layer.optimizer_bytes for layer in self.layers[first:end])

    def saved_bytes(self, first: int = 0, end: int | None = None) -> int:
        """Return the bytes that autograd keeps of one batch."""
        return sum(layer.saved_bytes for layer in self.layers[first:end])

    def decoupled_bytes(
        self,
        rule: str,
        steady: SteadyState,
        stage: int,
        bounds: tuple[int, int],
        interface: Sequence[InterfaceProfile],
        in_flight: int,
    ) -> int:
        """Return the most bytes that a stage of a decoupled run holds.

        Args:
            in_flight: messages of each kind that may lie between two neighbours.
        """
        (first, end), able = bounds, capabilities_of(rule)
        last = end == len(self.layers)
        h = 0 if last else self.layers[end - 1].output_bytes
        slots = steady.in_flight[stage] * (
            self.profile.label_bytes if last else self._message_bytes(rule, end)
        )
        if able.needs_targets:
            slots += in_flight * self.input_bytes(first)
        own = self.state_bytes(first, end) + sum(one.state_bytes + one.replay_bytes for one in interface)
        held, saved = steady.held[stage], self.saved_bytes(first, end)
        if able.keeps_graphs:
            weights = sum(layer.parameter_bytes for layer in self.layers[first:end])
            copies = min(max(0, held - 1), math.ceil(steady.staleness[stage])) * weights
            return own + slots + copies + max(1, held) * (saved + self.input_bytes(first))
        labels = self.profile.condition_bytes if able.conditional else 0
        return own + slots + saved + held * (h + labels)
