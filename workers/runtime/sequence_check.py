"""Checks that messages come in order: one that is lost, comes twice or overtakes another is an error at once.

    activations  A0 A1 A2  E0 E1  EPOCH(3)  A3 ...  STOP(4)     numbered through the run; test batches from 0
    targets      T0 T1 T2 T3  EPOCH(3)  STOP(4)                 a marker follows the targets of all before it

A marker carries the number of training batches before it. The stage counts what it has handled, so only the
test batches and the last marker of each kind are counted here.
"""

from __future__ import annotations

from typing import Any

from dni_async.errors import StageError
from dni_async.messages import EVALUATIONS, Marker, MarkerKind, Message, TargetGradient
from dni_async.stage.stage import Stage


class SequenceCheck:
    """Checks the messages that come to a stage, each before it is handled."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._tests = 0
        self._marks: dict[tuple[int, bool], int] = {}

    def state_dict(self) -> list[Any]:
        """What the check continues from when the stage is restarted, JSON-able."""
        markers = [[int(kind), int(returning), step] for (kind, returning), step in self._marks.items()]
        return [self._tests, markers]

    def load_state_dict(self, state: list[Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._tests, markers = state
        self._marks = {(MarkerKind(kind), bool(returning)): step for kind, returning, step in markers}

    def check(self, message: Message) -> None:
        """Raises StageError if this is not the next message."""
        stage = self._stage
        if isinstance(message, TargetGradient):
            if message.step != stage.targets_received:
                raise _wrong("target", message.step, stage.targets_received)
        elif isinstance(message, Marker):
            self._check_marker(message)
        elif message.train:
            if message.step != stage.steps:
                raise _wrong("activation", message.step, stage.steps)
        else:
            if message.step != self._tests:
                raise _wrong("evaluation batch", message.step, self._tests)
            self._tests += 1

    def _check_marker(self, marker: Marker) -> None:
        stage, name = self._stage, f"marker {marker.kind.name}"
        if (
            marker.step <= self._marks.get((marker.kind, marker.returning), -1)
            and marker.kind is not MarkerKind.REPORT
        ):
            raise StageError(f"{name} of step {marker.step} came twice")
        self._marks[marker.kind, marker.returning] = marker.step
        if not marker.returning:
            if marker.kind in (*EVALUATIONS, MarkerKind.RESTORE):
                self._tests = 0
            if marker.step != stage.steps:
                raise StageError(
                    f"{name} of step {marker.step} came after {stage.steps} batches: some got lost"
                )
        elif stage.rule.capabilities.needs_targets and stage.targets_received < marker.step:
            count = stage.targets_received
            raise StageError(f"{name} of step {marker.step} came back after {count} targets: some got lost")


def _wrong(name: str, came: int, due: int) -> StageError:
    why = "it came twice or late" if came < due else "that one got lost or was overtaken"
    return StageError(f"the {name} of step {came} came where that of step {due} was due: {why}")
