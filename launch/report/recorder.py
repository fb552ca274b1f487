"""Rank 0's recorder: takes the markers that come back, shows progress, and writes the files of --out.

marker REPORT              ─► progress           metrics.jsonl
marker EVALUATION, EPOCH   ─► progress, record   metrics.jsonl
marker STOP                ─► record             timeline.json, pictures, report.html, summary.json
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dni_async.messages import EVALUATIONS, Marker, MarkerKind
from launch.job.context import RankContext
from launch.job.output_folder import save_files
from launch.loggers.base import LoggedRun
from launch.loggers.fan_out import Loggers
from launch.report.files import JsonLines, collect_failure, jsonable, keep_lines, write_json
from launch.report.page.write import write_run_report
from launch.report.profiles import profiled_events
from launch.report.progress import Progress
from launch.report.run_record import RunRecord
from launch.report.run_table import run_grid
from launch.report.trace import chrome_trace

CLOCK_STARTED = "clock started"
"""Key in the launcher's store: the time at which the job's clock started first."""


class Recorder:
    """The record of a run with its clock, its display and its files.

    The clock starts with `start`. In a resumed run, or one whose rank 0 was started again, epochs and seconds
    go on from the state before; speeds and the timeline of a resumed run are of the resumed part.
    """

    def __init__(self, context: RankContext, progress: Progress | None = None) -> None:
        config = context.config
        self.record = RunRecord(context)
        self.out = context.out
        self.progress = progress or Progress(
            quiet=config.output.quiet,
            metric_name=context.task.metric_name,
            tag="emulated" if config.runtime.emulate_gflops else "",
        )
        self._context = context
        self._loggers = Loggers(config.logging.log, _logged_run(context))
        self._lines: JsonLines | None = None
        self._problems: list[str] = []
        """Files that could not be written."""
        self._start, self._end = 0.0, math.inf

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return self.record.summary

    @property
    def should_stop(self) -> bool:
        """Whether training should end: see `RunRecord.should_stop`, its time is up, or a signal has come."""
        interrupted = self._context.runner.interruption.signum is not None
        return interrupted or self.record.should_stop or time.perf_counter() > self._end

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
        self.summary.update({"transports": list(transports), "notes": notes, **(about or {})})
        if before:
            self.load_state_dict(before)
            passed = len(self.summary["epochs"])
        else:
            self._start = time.perf_counter()
            self._end = self._start + self._seconds_left()
            for note in notes:
                print(f"dni-async: {note}", flush=True)
            passed = context.plan.start // context.plan.steps_per_epoch
            if resumed:
                self._resume(resumed, context.plan.start)
        if self.out:
            save_files(self.out, context.task.files)
            self._lines = JsonLines(self.out / "metrics.jsonl", append=bool(resumed or before))
        self.progress.start(context.config.task.epochs, context.rendezvous.world, passed + 1)

    def _seconds_left(self) -> float:
        """Return what is left of --minutes, which do not begin again when the launcher restarts the job."""
        minutes, rendezvous = self._context.config.evaluation.minutes, self._context.rendezvous
        if minutes is None:
            return math.inf
        now = time.time()  # the processes of a restarted job may run on another host
        started = rendezvous.read_before_restart(CLOCK_STARTED)
        if started is None:
            started = now
            rendezvous.publish_for_restart(CLOCK_STARTED, now)
        return started + 60 * minutes - now

    def resume_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the record, JSON-able; `Start.record` of a resumed run."""
        return {"seconds": time.perf_counter() - self._start} | self.record.resume_state()

    def _resume(self, state: dict[str, Any], start: int) -> None:
        def until_start(line: dict[str, Any]) -> bool:
            return isinstance(step := line.get("step"), int) and step <= start

        if self.out:
            keep_lines(self.out / "metrics.jsonl", until_start)
        self._start -= state["seconds"]
        self.record.resume(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, JSON-able, for a recorder in another process on this host."""
        return self.record.state_dict() | {
            "start": self._start,
            "end": self._end if math.isfinite(self._end) else None,
            "lines_bytes": (self.out / "metrics.jsonl").stat().st_size if self.out else 0,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; what was written to metrics.jsonl after it is cut off."""
        if self.out:
            os.truncate(self.out / "metrics.jsonl", state["lines_bytes"])
        self.record.load_state_dict(state)
        self._start = state["start"]  # one clock for all processes of a host
        self._end = math.inf if state["end"] is None else state["end"]

    def on_marker(self, marker: Marker) -> None:
        """Record, show and write what a marker brought back."""
        seconds = time.perf_counter() - self._start
        result, stages = self.record.read_marker(marker)
        recent = {"recent_loss": self.record.add_loss(marker, result)}
        if marker.kind is MarkerKind.STOP:
            self.progress.close()
            self.record.finish(seconds, result, stages)
            if self._lines:
                self._lines.close()
        elif marker.kind is MarkerKind.REPORT:
            self._show_report(marker, result, stages)
            line = {"kind": "report", "epoch": marker.epoch, "step": marker.step, "seconds": seconds}
            self._write(line | result | recent, stages)
        elif marker.kind in EVALUATIONS:
            evaluation = self.record.add_evaluation(marker, seconds, result, stages)
            self.progress.epoch(evaluation)
            kind = "epoch" if marker.kind is MarkerKind.EPOCH else "evaluation"
            self._write({"kind": kind} | evaluation | recent, stages)

    def on_checkpoint(self, step: int, problem: str | None) -> None:
        """Count a checkpoint that was written, or could not be; training goes on, and the first failure is
        reported at once."""
        counts = self.summary["checkpoints"]
        counts["failed" if problem else "written"] += 1
        if problem and counts["failed"] == 1:
            warning = f"checkpoint of step {step} could not be written ({problem}); the one before is kept"
            self.record.warnings.append(warning)
            print(f"dni-async: {warning}", file=sys.stderr, flush=True)

    def _show_report(self, marker: Marker, result: dict[str, Any], stages: list[dict[str, Any]]) -> None:
        rows = [
            {"step": s["steps"], "utilisation": s["utilisation"], "staleness": s.get("staleness_mean")}
            for s in stages
        ]
        rows[-1]["loss"] = result["loss"]
        per_epoch = self.record.steps_per_epoch
        step = marker.step - (marker.epoch - 1) * per_epoch
        self.progress.update(step, per_epoch, result["samples_per_s"], rows)

    def _write(self, line: dict[str, Any], stages: list[dict[str, Any]]) -> None:
        """Log, and write a line of metrics.jsonl; when that fails training goes on without the file."""
        self._loggers.log(line["step"], line, stages)
        if self._lines is None or self.out is None:
            return
        with collect_failure(self._problems, self.out / "metrics.jsonl"):
            self._lines.write(line | {"stages": stages})
        if self._problems:
            lines, self._lines = self._lines, None
            with contextlib.suppress(OSError):
                lines.close()
            print(f"dni-async: {self._problems[0]}; training goes on", file=sys.stderr, flush=True)

    def close_loggers(self) -> None:
        """Close the loggers of --log, after the files of --out: a logger may be slow."""
        self._loggers.close()

    def write_files(self, *, whole: bool = True) -> list[str]:
        """Write the files of the whole run; return a line for each that could not be written.

        Args:
            whole: whether the weights of all ranks are written; without, there is no summary.json.
        """
        if self.out is None:
            return []
        timeline, summary = self.record.timeline, self.summary
        with collect_failure(self._problems, self.out / "timeline.json"):
            trace = chrome_trace(timeline, summary)
            trace["traceEvents"] += profiled_events(self.out, self.record.timeline_start)
            write_json(self.out / "timeline.json", trace, indent=None)
        with collect_failure(self._problems, self.out / "timeline.png", draws=True):
            # matplotlib: a second that only rank 0 needs
            from launch.report.timeline_plot import plot_timeline

            plot_timeline(timeline, self.out / "timeline.png", summary)
        with collect_failure(self._problems, self.out / "curves.png", draws=True):
            from launch.report.curves_plot import plot_curves

            plot_curves(summary, self.out / "curves.png")
        if self._context.config.output.report:
            write_run_report(self.out, summary, timeline, [run_grid(summary)])
        if whole:
            with collect_failure(self._problems, self.out / "summary.json"):
                write_json(self.out / "summary.json", summary)  # last: whoever finds it finds all
        return self._problems


def _logged_run(context: RankContext) -> LoggedRun:
    """Return what loggers get to know of the run."""
    config = context.config
    return LoggedRun(
        name=f"{context.task.name}, {config.engine_name}, seed {config.task.seed}",
        out=context.out,
        settings=jsonable(config.as_json()),
        start=context.start.position.step,
    )
