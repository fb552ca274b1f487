"""All stages in one process, under a delivery order that the caller dictates.

The engine is tested here, bit for bit: what a transport could do to messages (late, reordered,
missing) is an input. A *move* is "stage i handles the head of its activation or its target queue":

    moves   (0,a)  (0,a)  (1,a)  (0,t)      stage 0 runs one batch ahead of its first target
    queue   A0     A0 A1  A1,T0  A1
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
    """Targets before activations, and stage 0 before the others: everybody runs far ahead."""
    return min(moves, key=lambda move: (move[1] != "target", move[0]))


def downstream_first(moves: list[Move]) -> Move:
    """The furthest batch first, targets first: one batch in flight at a time."""
    return min(moves, key=lambda move: (move[1] != "target", -move[0]))


@dataclass(slots=True)
class Simulation:
    """What the stages did.

    keep: says of each target gradient whether it is delivered; False loses it.
    """

    stages: Sequence[Stage]
    capacity: int = 4
    keep: Callable[[TargetGradient], bool] = lambda target: True
    markers: list[Marker] = field(default_factory=list)
    """Marks that came back to stage 0."""
    moves: list[Move] = field(default_factory=list)
    """The order in which messages were handled."""
    activations: list[deque[Message]] = field(init=False)
    targets: list[deque[Message]] = field(init=False)

    def __post_init__(self) -> None:
        self.activations = [deque() for _ in self.stages]
        self.targets = [deque() for _ in self.stages]

    def run(self, source: Iterable[Message], order: Order = upstream_first) -> Simulation:
        """Feed stage 0 from `source` until every queue is empty."""
        rest = iter(source)
        while True:
            if not self.activations[0]:
                self.activations[0].extend(m for m in [next(rest, None)] if m is not None)
            moves = self.possible()
            if not moves:
                return self
            self.move(order(moves))

    def possible(self) -> list[Move]:
        """The moves whose queue has a message and, for activations, whose stage and way out have room."""
        moves: list[Move] = [(i, "target") for i, queue in enumerate(self.targets) if queue]
        for i, queue in enumerate(self.activations):
            full = i + 1 < len(self.stages) and len(self.activations[i + 1]) >= self.capacity
            if queue and not full and self.stages[i].has_room:
                moves.append((i, "activation"))
        return moves

    def move(self, move: Move) -> None:
        """Let one stage handle one message, and deliver what it sends."""
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
