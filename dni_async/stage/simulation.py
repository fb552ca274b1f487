"""All stages in one process, with a delivery order that the caller chooses.

Tests run the engine here, bit for bit: what a transport may do to messages (delay, reorder, lose) is an
input. A *move* is "stage i handles the first message of its activation queue or of its target queue":

    moves   (0,a)  (0,a)  (1,a)  (0,t)      stage 0 runs one batch ahead of its first target
    queue   A0     A0 A1  A1,T0  A1

`run_in_step` runs them as stages of equal speed do:

    tick    1      2             3             4       5
    moves   (0,a)  (0,a) (1,a)   (0,t) (1,a)   (0,t)   (0,a)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dni_async.messages import Marker, Message, TargetGradient, goes_upstream
from dni_async.stage.stage import Stage

Queue = Literal["activation", "target"]
Move = tuple[int, Queue]
Order = Callable[[list[Move]], Move]
"""Chooses one of the moves that are possible now."""


def upstream_first(moves: list[Move]) -> Move:
    """Targets before activations, stage 0 before the others: all stages run far ahead."""
    return min(moves, key=lambda move: (move[1] != "target", move[0]))


def downstream_first(moves: list[Move]) -> Move:
    """Targets before activations, the last stage before the others: one batch in flight at a time."""
    return min(moves, key=lambda move: (move[1] != "target", -move[0]))


@dataclass(slots=True)
class Simulation:
    """Runs stages on one stream of messages.

    Args:
        stages: in order.
        capacity: most activations between two stages.
        keep: whether a target gradient is delivered; False loses it.
    """

    stages: Sequence[Stage]
    capacity: int = 4
    keep: Callable[[TargetGradient], bool] = lambda target: True
    markers: list[Marker] = field(default_factory=list)
    """Markers that came back to stage 0."""
    moves: list[Move] = field(default_factory=list)
    """The order in which messages were handled."""
    activations: list[deque[Message]] = field(init=False)
    targets: list[deque[Message]] = field(init=False)

    def __post_init__(self) -> None:
        self.activations = [deque() for _ in self.stages]
        self.targets = [deque() for _ in self.stages]

    def run(self, source: Iterable[Message], order: Order = upstream_first) -> Simulation:
        """Feed stage 0 from `source` until every queue is empty."""
        messages = iter(source)
        while True:
            if not self.activations[0]:
                self.activations[0].extend(m for m in [next(messages, None)] if m is not None)
            moves = self.possible()
            if not moves:
                return self
            self.move(order(moves))

    def run_in_step(self, source: Iterable[Message]) -> Simulation:
        """Feed stage 0 from `source` until every queue is empty, with stages that are equally fast: in each
        tick every stage handles one message of an earlier tick, a target if there is one."""
        messages = iter(source)
        while True:
            if not self.activations[0]:
                self.activations[0].extend(m for m in [next(messages, None)] if m is not None)
            chosen: dict[int, Move] = {}
            for move in self.possible():
                chosen.setdefault(move[0], move)
            if not chosen:
                return self
            for move in chosen.values():
                self.move(move)

    def possible(self) -> list[Move]:
        """Return the moves whose queue has a message and, for activations, whose stage and next queue have
        room."""
        moves: list[Move] = [(i, "target") for i, queue in enumerate(self.targets) if queue]
        for i, queue in enumerate(self.activations):
            full = i + 1 < len(self.stages) and len(self.activations[i + 1]) >= self.capacity
            if queue and not full and self.stages[i].has_room:
                moves.append((i, "activation"))
        return moves

    def move(self, move: Move) -> None:
        """Let one stage handle one message, and deliver the messages that it sends."""
        stage, queue = move
        self.moves.append(move)
        message = (self.targets if queue == "target" else self.activations)[stage].popleft()
        for out in self.stages[stage].on(message):
            self._deliver(stage, out)

    def _deliver(self, sender: int, message: Message) -> None:
        if not goes_upstream(message):
            self.activations[sender + 1].append(message)
        elif sender > 0:
            if not isinstance(message, TargetGradient) or self.keep(message):
                self.targets[sender - 1].append(message)
        else:
            assert isinstance(message, Marker)
            self.markers.append(message)
