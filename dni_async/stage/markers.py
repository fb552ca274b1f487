"""How a stage handles a marker, on its way down and on its way back.

stage 0, 1 ..   down: pass it on; begin the part of a checkpoint, or keep the weights of a validation
last stage      turn it round: write the result on it
all stages      back: every target before it has been taken; add this stage's numbers to its body
"""

from __future__ import annotations

from collections.abc import Iterator

from dni_async.messages import EVALUATIONS, Marker, MarkerKind
from dni_async.stage.training_step import TrainingStep
from dni_async.state.state_dict import State


class MarkerHandler(TrainingStep):
    """What a stage does with a marker."""

    def on_marker(self, marker: Marker) -> Iterator[Marker]:
        """Pass a marker down, turn it round on the last stage, or pass it back with this stage's numbers."""
        if not marker.returning:
            if not self.is_last:
                yield marker
                self._going_down(marker)
                return
            marker.returning = True
            marker.body["result"] = self.rule.result()
            if marker.kind in (MarkerKind.EVALUATION, MarkerKind.RESTORE):
                self.rule.reset_evaluation()
            self._going_down(marker)
        self._coming_back(marker)
        yield marker

    def _going_down(self, marker: Marker) -> None:
        """Copy what the marker is about: the state of this stage as it is now."""
        if marker.kind is MarkerKind.CHECKPOINT:
            self._parts.begin(marker.step)
            self.on_phase_end("checkpoint")
        elif self.best is not None:
            with self.averaged():
                self.best.went_down(marker)
            if marker.kind in EVALUATIONS:
                self.on_phase_end("evaluate")

    def _coming_back(self, marker: Marker) -> None:
        """Every message that was sent before the marker has been answered: complete what it is about."""
        self.rule.check_answered(marker.step)
        marker.body[str(self.index)] = self.stats()
        if self.best is not None:
            self.best.came_back(marker)
            if marker.kind is MarkerKind.RESTORE and self.updater and self.best.weights:
                self.updater.restart_average()
        if marker.kind is MarkerKind.EPOCH:
            self.new_epoch()
            self._parts.on_epoch()
        elif marker.kind is MarkerKind.CHECKPOINT:
            marker.body[str(self.index)] |= self.save_checkpoint(marker.step, self._whole_part(marker.step))
            self.on_phase_end("checkpoint")
        self.done = marker.kind is MarkerKind.STOP

    def _whole_part(self, step: int) -> State | None:
        """Return the part of a checkpoint, with the best weights of the validations before it."""
        part = self._parts.whole(step)
        return part | self.best.state_dict() if part and self.best else part
