"""The record of a run: made on rank 0 from the markers that come back, written to --out."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dni_async.messages import EVALUATIONS, Marker, MarkerKind
from launch.job.context import RankContext
from launch.report.files import JsonLines, keep_lines, write_json
from launch.report.metadata import unfilled
from launch.report.progress import Progress
from launch.report.timeline import chrome_trace, overlap
from launch.report.validation import early_stopping, patience_of, split_of, validated
from workers.runtime.emulation import overrun_warning

SINCE_EPOCH = (
    *("sg_relative_error", "sg_cosine", "local_loss", "local_accuracy"),
    *("state_max", "time_sg_error", "time_sg_share"),
)
"""What a stage reports of the time since the epoch began."""


class Recorder:
    """Takes the markers as they come back to stage 0; knows the whole run when STOP is here.

    The clock starts with `start`. In a resumed run, or one whose rank 0 was started again, epochs and seconds
    go on from the state before; speeds and the timeline of a resumed run are of the resumed part.
    """

    def __init__(self, context: RankContext, progress: Progress | None = None) -> None:
        config, plan = context.config, context.plan
        self._context = context
        self.out = Path(config.out) if config.out else None
        self.progress = progress or Progress(
            quiet=config.quiet,
            metric_name=context.task.metric_name,
            tag="emulated" if config.emulate_gflops else "",
        )
        self.steps_per_epoch = plan.steps_per_epoch
        self.batch_size = config.batch_size
        self._reported = context.task.reported
        self.summary = unfilled(context)
        self._patience = patience_of(config, plan.steps_per_epoch)
        self._steps = config.epochs * plan.steps_per_epoch
        self.timeline: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        """What turned out at the end to be wrong with the run; in the summary's notes, too."""
        self._means: list[dict[str, Any]] = [{} for _ in range(context.rendezvous.world)]
        self._lines: JsonLines | None = None
        self._start, self._end = 0.0, math.inf

    def start(self, transports: Sequence[str] = (), about: Mapping[str, Any] | None = None) -> None:
        """Start the clock, when all is set up.

        Args:
            transports: of the links between the stages.
            about: more entries of the summary, of the engine's own settings.
        """
        context = self._context
        before = context.session.record() if context.session else None
        resumed = context.start.record
        notes = [*context.start.notes, *([context.task.note] if context.task.note else [])]
        self.summary |= {"transports": list(transports), "notes": notes, **(about or {})}
        self._start = time.perf_counter()
        minutes = context.config.minutes
        self._end = self._start + 60 * minutes if minutes else math.inf
        if before:
            self.load_state_dict(before)
            passed = len(self.summary["epochs"])
        else:
            for note in notes:
                print(f"dni-async: {note}", flush=True)
            passed = context.plan.start // self.steps_per_epoch
            if resumed:
                self._resume(resumed, context.plan.start)
        if self.out:
            self._lines = JsonLines(self.out / "metrics.jsonl", append=bool(resumed or before))
        self.progress.start(context.config.epochs, context.rendezvous.world, passed + 1)

    def resume_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the record, JSON-able; `Start.record` of a resumed run."""
        seconds = time.perf_counter() - self._start
        patience = {"patience": self._patience.state_dict()} if self._patience else {}
        records = {key: list(self.summary[key]) for key in ("epochs", "evaluations")}
        return {"seconds": seconds} | records | patience

    def _resume(self, state: dict[str, Any], start: int) -> None:
        if self.out:
            keep_lines(self.out / "metrics.jsonl", lambda record: record["step"] <= start)
        self._start -= state["seconds"]
        self.summary |= {key: list(state[key]) for key in ("epochs", "evaluations")}
        for record in state["evaluations"]:
            self._look_whether_reached(record)
        if self._patience and "patience" in state:
            self._patience.load_state_dict(state["patience"])

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, JSON-able, for a recorder in another process on this host."""
        return {
            "summary": self.summary,
            "timeline": self.timeline,
            "warnings": self.warnings,
            "means": self._means,
            "start": self._start,
            "end": self._end if math.isfinite(self._end) else None,
            "lines_bytes": (self.out / "metrics.jsonl").stat().st_size if self.out else 0,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; what was written to metrics.jsonl after it is cut off."""
        if self.out:
            os.truncate(self.out / "metrics.jsonl", state["lines_bytes"])
        self.summary, self.timeline, self.warnings = state["summary"], state["timeline"], state["warnings"]
        self._means = state["means"]
        self._start = state["start"]  # one clock for all processes of a host
        self._end = math.inf if state["end"] is None else state["end"]

    def on_marker(self, marker: Marker) -> None:
        """Show and keep what a marker brought."""
        seconds = time.perf_counter() - self._start
        result = marker.body.pop("result")
        stages = [marker.body[str(i)] for i in range(len(marker.body))]
        for told, key in ((result, "test_accuracy"), *((stage, "local_accuracy") for stage in stages)):
            if told.get(key) is not None:
                told[key] = self._reported(told[key])
        if marker.kind is MarkerKind.STOP:
            self._finish(seconds, result, stages)
        elif marker.kind is MarkerKind.REPORT:
            self._report(marker, seconds, result, stages)
        elif marker.kind in EVALUATIONS:
            self._evaluation(marker, seconds, validated(result) if self._patience else result, stages)

    @property
    def reached(self) -> bool:
        """Whether an evaluation gave the accuracy that training was to go on until."""
        until = self.summary["until"]
        return until is not None and until["seconds"] is not None

    @property
    def enough(self) -> bool:
        """Whether training shall end: it is accurate enough, gets no better, or its time is up."""
        hopeless = self._patience is not None and self._patience.over
        return self.reached or hopeless or time.perf_counter() > self._end

    def on_checkpoint(self, step: int, problem: str | None) -> None:
        """A checkpoint was written, or could not be: then training goes on, and the user is told once."""
        counts = self.summary["checkpoints"]
        counts["failed" if problem else "written"] += 1
        if problem and counts["failed"] == 1:
            warning = f"checkpoint of step {step} could not be written ({problem}); the one before is kept"
            self.warnings.append(warning)
            print(f"dni-async: {warning}", file=sys.stderr, flush=True)

    def _report(
        self, marker: Marker, seconds: float, result: dict[str, Any], stages: list[dict[str, Any]]
    ) -> None:
        shown = [
            {"step": s["steps"], "utilisation": s["utilisation"], "staleness": s.get("staleness_mean")}
            for s in stages
        ]
        shown[-1]["loss"] = result["loss"]
        step = marker.step - (marker.epoch - 1) * self.steps_per_epoch
        self.progress.update(step, self.steps_per_epoch, result["samples_per_s"], shown)
        self._write(
            {"kind": "report", "epoch": marker.epoch, "step": marker.step, "seconds": seconds} | result,
            stages,
        )

    def _evaluation(
        self, marker: Marker, seconds: float, result: dict[str, Any], stages: list[dict[str, Any]]
    ) -> None:
        """There was an evaluation, at the end of an epoch (a whole number) or within one."""
        whole = marker.kind is MarkerKind.EPOCH
        epoch = marker.epoch if whole else marker.step / self.steps_per_epoch
        record = {"epoch": epoch, "step": marker.step, "seconds": seconds} | result
        self.summary["evaluations"].append(record)
        if whole:
            self.summary["epochs"].append(record)
        self._look_whether_reached(record)
        if self._patience:
            self._patience.better(marker.step, record["validation_loss"])
        self.progress.epoch(record)
        self._write({"kind": "epoch" if whole else "evaluation"} | record, stages)
        # these start over with each epoch: the summary keeps those of the last evaluation
        self._means = [{key: s[key] for key in s if key in SINCE_EPOCH} for s in stages]

    def _look_whether_reached(self, record: dict[str, Any]) -> None:
        until = self.summary["until"]
        accuracy = f"{split_of([record])}_accuracy"
        if until is None or self.reached or record[accuracy] < until["accuracy"]:
            return
        until |= {"seconds": record["seconds"], "epochs": record["epoch"], "steps": record["step"]}

    def _finish(self, seconds: float, result: dict[str, Any], stages: list[dict[str, Any]]) -> None:
        self.progress.close()
        self.timeline = [{"stage": s["index"], "events": s.pop("timeline")} for s in stages]
        _from_first_event(self.timeline)
        if self.summary["until"] is not None:
            self.summary["until"] |= self._until(result["samples_per_s"])
        keys = ("loss", "test_loss", "test_accuracy")
        last = (self.summary["evaluations"] or [dict.fromkeys(keys) | {"seconds": seconds}])[-1]
        tested = result if self._patience else last
        if self._patience:
            told = early_stopping(
                self._patience, self.summary["evaluations"], self._end_of(stages[0]["steps"])
            )
            self.summary["early_stopping"] = told
        self.summary |= {
            "samples_per_s": result["samples_per_s"],
            "train_s": last["seconds"],
            "total_s": seconds,
            "final": {"loss": last["loss"]} | {key: tested[key] for key in keys[1:]},
            "overlap": overlap(self.timeline),
            "stages": [s | kept for s, kept in zip(stages, self._means, strict=True)],
        }
        if self.summary["emulated_gflops"] and (warning := overrun_warning(stages)):
            self.warnings.append(warning)
        self.warnings += skipped_warnings(stages)
        if again := sum(s.get("restarts", 0) for s in stages):
            lost = sum(s["lost_updates"] for s in stages)
            self.warnings.append(f"stages that died and were started again: {again}; updates lost: {lost}")
        if (restarts := self.summary["restarts"])["count"]:
            self.warnings.append(
                f"restarts: {restarts['count']}; steps lost and trained again: {restarts['lost_steps']}"
            )
        self.summary["notes"] = [*self.summary["notes"], *self.warnings]
        if self._lines:
            self._lines.close()

    def _end_of(self, step: int) -> str:
        """What ended training, which was after so many steps."""
        if self._patience and self._patience.over:
            return "patience"
        if self.reached:
            return "until"
        return "epochs" if step >= self._steps else "minutes"

    def _until(self, samples_per_s: float | None) -> dict[str, Any]:
        """Whether it was reached, and the seconds of training that it would take without evaluations.

        Stages train while others evaluate, so evaluations cannot be taken off the wall-clock alike for all
        engines. What is alike for all: the samples trained until then over the samples per second.
        """
        if not self.reached or not samples_per_s:
            return {"reached": self.reached}
        epochs, steps = divmod(self.summary["until"]["steps"], self.steps_per_epoch)
        samples = epochs * self.summary["dataset"]["train"] + steps * self.batch_size
        return {"reached": self.reached, "seconds_without_evaluations": samples / samples_per_s}

    def _write(self, record: dict[str, Any], stages: list[dict[str, Any]]) -> None:
        if self._lines:
            self._lines.write(record | {"stages": stages})

    def write_files(self) -> None:
        """Write everything to the folder, when the run is over."""
        if self.out is None:
            return
        from launch.report.plots import (  # matplotlib: a second that only rank 0 needs
            plot_curves,
            plot_timeline,
        )

        out = self.out
        write_json(out / "timeline.json", chrome_trace(self.timeline, self.summary), indent=None)
        plot_timeline(self.timeline, out / "timeline.png", self.summary)
        plot_curves(self.summary, out / "curves.png")
        write_json(out / "summary.json", self.summary)  # last: who finds it finds the others too


def skipped_warnings(stages: list[dict[str, Any]]) -> list[str]:
    """One line for each stage that went on without a batch; `stages`: what they report."""
    return [
        f"stage {s['index']} did not learn from {s['skipped']} of {s['steps']} batches, as an activation, a "
        "gradient or a loss was NaN or infinite"
        for s in stages
        if s.get("skipped")
    ]


def _from_first_event(timeline: list[dict[str, Any]]) -> None:
    """Let the timeline start at zero."""
    start = min((row["events"][0][1] for row in timeline if row["events"]), default=0.0)
    for row in timeline:
        for event in row["events"]:
            event[1] = round(event[1] - start, 1)
