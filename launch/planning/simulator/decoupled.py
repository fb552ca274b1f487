"""Decoupled stages, event by event, with the same decisions as the loop of a real stage.

A stage looks for a message, targets first, handles it, and looks again when it is done (or, when there was
nothing to do, when something arrives). What it sends leaves in the middle of its work:

    rules that learn from targets (dni):
             take, load | forward | send --> | predict | backward | send target --> | update | credit -->
             take target | train | credit -->
    rules that need no targets (local):
             take, load | forward | send --> | predict | backward | update | credit -->
    rules that keep graphs until the target comes (delayed):
             take, load | forward | send --> | credit -->
             take target | backward | send target --> | update | credit -->

An event is a stage that looks for a message. All that follows from its decision is known at once, so a
thousand stages take a few events per stage and batch.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Sequence

from launch.planning.simulator.base import StageCost, SteadyState
from launch.planning.simulator.channel import Channel, Uplink


def simulate_decoupled(
    stages: Sequence[StageCost],
    *,
    in_flight: int,
    needs_targets: bool = True,
    keeps_graphs: bool = False,
    stash: Sequence[int] | None = None,
    batches: int = 128,
) -> SteadyState:
    """Run `batches` batches through the stages, and return the steady state in the middle of the run.

    Args:
        in_flight: messages of each kind that may lie between two neighbours.
        needs_targets, keeps_graphs: of the rule (see `RuleCapabilities`).
        stash: batches whose graph each stage may keep; a stage that keeps so many takes no further one.
    """
    return _Pipeline(stages, needs_targets, keeps_graphs, in_flight, stash, batches).run()


def steady_period(ends: Sequence[float]) -> float:
    """Return the mean seconds between two of `ends` (at least two), over whole turns where they recur.

    0 1 3 4 6 7 9     turns of two steps, 1 and 2: 1.5 on average, wherever the ends begin and end
    """
    steps = [b - a for a, b in itertools.pairwise(ends)]
    close = 1e-9 * ends[-1]
    for turn in range(1, len(steps) // 2 + 1):
        if all(abs(a - b) <= close for a, b in zip(steps, steps[turn:], strict=False)):
            return sum(steps[:turn]) / turn
    return sum(steps) / len(steps)


class _Stage:
    """One stage and its state. A channel that does not exist is None."""

    __slots__ = (
        "activations_in", "activations_out", "busy", "cost", "free", "handled", "held", "index",
        "most_held", "staleness", "stash", "targets_in", "targets_out", "version", "wake",
    )  # fmt: skip

    def __init__(self, index: int, cost: StageCost, stash: float) -> None:
        self.index, self.cost, self.stash = index, cost, stash
        self.activations_in: Channel | None = None
        self.activations_out: Channel | None = None
        self.targets_in: Channel | None = None
        self.targets_out: Channel | None = None
        self.free = 0.0
        """When it is done with its present message."""
        self.wake = math.inf
        """When it will look for a message next."""
        self.version = self.most_held = 0
        self.held: deque[int] = deque()
        """Versions of the weights at the forward of the batches that wait for their target."""
        self.busy = [0.0, 0.0]
        self.handled = [0, 0]
        """Activations, targets."""
        self.staleness = 0

    def per_batch(self) -> float:
        """Return the seconds of work per batch."""
        return sum(b / h for b, h in zip(self.busy, self.handled, strict=True) if h)

    def done(self, queue: int, begun: float, ended: float) -> None:
        self.busy[queue] += ended - begun
        self.handled[queue] += 1
        self.free = self.wake = ended


class _Pipeline:
    """All stages, and the heap of those that will look at their queues."""

    def __init__(
        self,
        costs: Sequence[StageCost],
        needs_targets: bool,
        keeps_graphs: bool,
        in_flight: int,
        stash: Sequence[int] | None,
        batches: int,
    ) -> None:
        assert in_flight > 0 and batches > 2, (in_flight, batches)
        self.needs_targets, self.keeps_graphs, self.batches = needs_targets, keeps_graphs, batches
        limits: Sequence[float] = stash if stash is not None else [math.inf] * len(costs)
        self.stages = [_Stage(i, cost, limits[i]) for i, cost in enumerate(costs)]
        uplinks = [Uplink() for _ in costs]
        for upper, lower in itertools.pairwise(self.stages):
            uplink = uplinks[upper.index]
            upper.activations_out = lower.activations_in = Channel(upper.cost.activation, in_flight, uplink)
            if needs_targets:
                uplink = uplinks[lower.index]
                upper.targets_in = lower.targets_out = Channel(lower.cost.target, in_flight, uplink)
        self.heap: list[tuple[float, int]] = []
        self.finished: list[float] = []
        """When the last stage was done with each batch."""

    def run(self) -> SteadyState:
        self._wake(self.stages[0], 0.0)
        while self.heap and len(self.finished) < self.batches:
            now, index = heapq.heappop(self.heap)
            stage = self.stages[index]
            if now == stage.wake:  # else an earlier event has replaced this one
                self._look(stage, now)
        assert len(self.finished) == self.batches, "the stages wait for each other"
        return SteadyState(
            period=steady_period(self.finished[2 * self.batches // 5 : 4 * self.batches // 5 + 1]),
            busy=[stage.per_batch() for stage in self.stages],
            staleness=[stage.staleness / max(1, stage.handled[1]) for stage in self.stages],
            in_flight=[s.activations_out.most if s.activations_out else 0 for s in self.stages],
            held=[stage.most_held for stage in self.stages],
        )

    def _wake(self, stage: _Stage, time: float) -> None:
        """Let the stage look at `time`, or when it is free."""
        time = max(time, stage.free)
        if time < stage.wake:
            stage.wake = time
            heapq.heappush(self.heap, (time, stage.index))

    def _look(self, stage: _Stage, now: float) -> None:
        """Handle one message if one may be handled now (workers/runtime/loop.py:StageLoop.step)."""
        stage.wake = math.inf
        targets, inputs = stage.targets_in, stage.activations_in
        if stage.targets_out is None or stage.targets_out.has_room(now):
            if targets and targets.ready(now):
                self._handle_target(stage, targets, now)
            elif self._may_take(stage, now) and (inputs.ready(now) if inputs else self._has_more(stage)):
                self._handle_activation(stage, now)
        if stage.wake < math.inf:
            heapq.heappush(self.heap, (stage.wake, stage.index))
        else:
            self._sleep(stage, now)

    def _has_more(self, stage: _Stage) -> bool:
        return stage.handled[0] < self.batches

    def _may_take(self, stage: _Stage, now: float) -> bool:
        out = stage.activations_out
        return len(stage.held) < stage.stash and (out is None or out.has_room(now))

    def _sleep(self, stage: _Stage, now: float) -> None:
        """Look again when the next known message or credit arrives; a later sender wakes the stage."""
        arrivals = [c.arrivals for c in (stage.activations_in, stage.targets_in) if c]
        credits = [c.credits for c in (stage.activations_out, stage.targets_out) if c]
        coming = [queue[0] for queue in arrivals + credits if queue and queue[0] > now]
        if coming:
            self._wake(stage, min(coming))

    def _handle_activation(self, stage: _Stage, begun: float) -> None:
        cost, inputs = stage.cost, stage.activations_in
        now = (inputs.take(begun) if inputs else begun) + cost.load + cost.forward
        waits = False
        if stage.activations_out:
            now = self._send(stage.activations_out, self.stages[stage.index + 1], now)
            if self.needs_targets:
                stage.held.append(stage.version)
                stage.most_held = max(stage.most_held, len(stage.held))
            waits = self.keeps_graphs
            now += 0.0 if waits else cost.predict
        if not waits:
            now = self._learn(stage, now)
        if inputs:
            self._wake(self.stages[stage.index - 1], inputs.release(now))
        if stage.activations_out is None:
            self.finished.append(now)
        stage.done(0, begun, now)

    def _handle_target(self, stage: _Stage, targets: Channel, begun: float) -> None:
        now = targets.take(begun)
        stage.staleness += stage.version - stage.held.popleft()
        now = self._learn(stage, now) if self.keeps_graphs else now + stage.cost.train
        self._wake(self.stages[stage.index + 1], targets.release(now))
        stage.done(1, begun, now)

    def _learn(self, stage: _Stage, now: float) -> float:
        """Run backward, target for the neighbour and update; return the time at which that is done."""
        now += stage.cost.backward
        if stage.targets_out:
            now = self._send(stage.targets_out, self.stages[stage.index - 1], now)
        stage.version += 1
        return now + stage.cost.update

    def _send(self, channel: Channel, to: _Stage, now: float) -> float:
        done = channel.send(now)
        self._wake(to, channel.arrivals[-1])
        return done
