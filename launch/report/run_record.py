"""What is known of a run: its summary, which every evaluation extends and the last marker completes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dni_async.early_stopping import Patience
from dni_async.messages import Marker, MarkerKind
from launch.job.context import RankContext
from launch.job.stage_factory import patience_of
from launch.report.evaluation import metric_key, named_result, split_of
from launch.report.links import completed_links
from launch.report.metadata import initial_summary
from launch.report.timeline import overlap, shift_to_zero
from launch.report.training_loss import TrainingLoss
from workers.runtime.emulation import overrun_warning

SINCE_EPOCH = ("sg_relative_error", "sg_cosine", "state_max", "time_sg_error", "time_sg_share")
"""What a stage reports of the time since the epoch began, beside its local loss and metric."""

LEAST_SG_COSINE = 0.1
"""Below this an SG network predicts next to nothing: runs that learned well had 0.26 to 0.98 at every stage,
linear networks on a residual network 0.07, unconditional ones 0.01 (docs/LOG.md, 2026-11-28)."""
LEAST_SG_UPDATES = 300
"""Before so many updates a small cosine says little."""


class RunRecord:
    """The summary of a layered task's run, its timeline, and whether training should end."""

    def __init__(self, context: RankContext) -> None:
        self.summary = initial_summary(context)
        self.timeline: list[dict[str, Any]] = []
        self.timeline_start = 0.0  # where the timeline begins, in microseconds of the ranks' clock
        self.warnings: list[str] = []
        """What was wrong with the run, known at its end; also in the summary's notes."""
        self.loss = TrainingLoss()
        self.steps_per_epoch = context.plan.steps_per_epoch
        self._task, self._config = context.task, context.config
        self._interruption = context.runner.interruption
        self._patience = patience_of(context.config.evaluation.patience, self.steps_per_epoch)
        self._epoch_means: list[dict[str, Any]] = [{} for _ in range(context.rendezvous.world)]

    @property
    def reached(self) -> bool:
        """Whether an evaluation reached the accuracy of --until."""
        until = self.summary["until"]
        return until is not None and until["seconds"] is not None

    @property
    def should_stop(self) -> bool:
        """Whether training should end: its accuracy was reached, or its patience has run out."""
        return self.reached or (self._patience is not None and self._patience.over)

    def read_marker(self, marker: Marker) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return (result, what each stage reports) of a marker, under the names of the task's metric."""
        body = dict(marker.body)
        split = "test" if self._patience is None or marker.kind is MarkerKind.STOP else "validation"
        result, *stages = (
            named_result(part, split, self._task.metric_name, self._task.reported)
            for part in (body.pop("result"), *(body[str(i)] for i in range(len(body))))
        )
        return result, stages

    def add_loss(self, marker: Marker, result: dict[str, Any]) -> float | None:
        """Extend the curve of the training loss; return the mean of the steps since the last marker."""
        epoch = marker.step / self.steps_per_epoch
        return self.loss.add(result, marker.step, epoch, epoch_ends=marker.kind is MarkerKind.EPOCH)

    def add_evaluation(
        self, marker: Marker, seconds: float, result: dict[str, Any], stages: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Add an evaluation, at the end of an epoch (a whole number) or within one; return its record."""
        whole = marker.kind is MarkerKind.EPOCH
        epoch = marker.epoch if whole else marker.step / self.steps_per_epoch
        record = {"epoch": epoch, "step": marker.step, "seconds": seconds} | result
        self.summary["evaluations"].append(record)
        if whole:
            self.summary["epochs"].append(record)
        self._check_reached(record)
        if self._patience:
            self._patience.better(marker.step, record["validation_loss"])
        # the stages' means start again with each epoch: the summary has the last ones that are known
        for known, stage in zip(self._epoch_means, stages, strict=True):
            for key, value in stage.items():
                if (key in SINCE_EPOCH or key.startswith("local_")) and (
                    value is not None or key not in known
                ):
                    known[key] = value
        return record

    def _check_reached(self, record: dict[str, Any]) -> None:
        until = self.summary["until"]
        if until is None or self.reached:
            return
        if record[metric_key(split_of([record]), self._task.metric_name)] >= until["accuracy"]:
            until |= {"seconds": record["seconds"], "epochs": record["epoch"], "steps": record["step"]}

    def finish(self, seconds: float, result: dict[str, Any], stages: list[dict[str, Any]]) -> None:
        """Complete the summary at the end of the run."""
        self.timeline = [{"stage": s["index"], "events": s.pop("timeline")} for s in stages]
        self.timeline_start = shift_to_zero(self.timeline)
        if self.summary["until"] is not None:
            self.summary["until"] |= self._until(result["samples_per_s"])
        metrics = (self._task.metric_name, *self._task.extra_metrics)
        tested = ("test_loss", *(metric_key("test", name) for name in metrics))
        nothing = dict.fromkeys(("loss", *tested)) | {"seconds": seconds}
        last = (self.summary["evaluations"] or [nothing])[-1]
        if self._patience:
            self.summary["early_stopping"] = early_stopping_record(
                self._patience, self.summary["evaluations"], self._ended_by(stages[0]["steps"])
            )
        self.summary |= {
            "samples_per_s": result["samples_per_s"],
            "train_s": last["seconds"],
            "total_s": seconds,
            "losses": self.loss.points,
            "final": {"loss": last["loss"]}
            | {k: (result if self._patience else last).get(k) for k in tested},
            "overlap": overlap(self.timeline),
            "stages": [s | means for s, means in zip(stages, self._epoch_means, strict=True)],
        }
        self.summary["links"] = completed_links(self.summary)
        self._note_interruption(stages[0]["steps"])
        self.warnings += self._final_warnings(self.summary["stages"])
        self.summary["notes"] = [*self.summary["notes"], *self.warnings]

    def _ended_by(self, steps: int) -> str:
        if self._patience and self._patience.over:
            return "patience"
        if self.reached:
            return "until"
        evaluated = self.summary["evaluations"][-1]["step"] if self.summary["evaluations"] else 0
        if min(steps, evaluated) >= self._all_steps:  # a signal may come in the last evaluation
            return "epochs"
        return "minutes" if self._interruption.signum is None else "signal"

    @property
    def _all_steps(self) -> int:
        return self._config.task.epochs * self.steps_per_epoch

    def _note_interruption(self, steps: int) -> None:
        if self._ended_by(steps) == "signal":
            self.summary["interrupted"] = {"signal": self._interruption.name, "step": steps}
            self.warnings.append(
                f"stopped by {self._interruption.name} after step {steps} of {self._all_steps}"
            )

    def _until(self, samples_per_s: float | None) -> dict[str, Any]:
        """Return whether --until was reached, and the seconds that it would take without evaluations.

        Stages train while others evaluate, so the time of evaluations cannot be subtracted alike for all
        engines. The samples trained until then over the samples per second are alike for all.
        """
        if not self.reached or not samples_per_s:
            return {"reached": self.reached}
        epochs, steps = divmod(self.summary["until"]["steps"], self.steps_per_epoch)
        samples = epochs * self.summary["dataset"]["train"] + steps * self._config.task.batch_size
        return {"reached": self.reached, "seconds_without_evaluations": samples / samples_per_s}

    def _final_warnings(self, stages: list[dict[str, Any]]) -> list[str]:
        warnings = []
        if self.summary["emulated_gflops"] and (overrun := overrun_warning(stages)):
            warnings.append(overrun)
        warnings += skipped_warnings(stages) + useless_sg_warnings(stages)
        if again := sum(s.get("restarts", 0) for s in stages):
            lost = sum(s["lost_updates"] for s in stages)
            warnings.append(f"stages that died and were started again: {again}; updates lost: {lost}")
        if (restarts := self.summary["restarts"])["count"]:
            lost = restarts["lost_steps"]
            known = "" if lost is None else f"; steps lost and trained again: {lost}"
            warnings.append(f"restarts: {restarts['count']}{known}")
        return warnings

    def resume_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the record, JSON-able."""
        patience = {"patience": self._patience.state_dict()} if self._patience else {}
        records = {key: list(self.summary[key]) for key in ("epochs", "evaluations")}
        return records | patience | {"training_loss": self.loss.state_dict()}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from `resume_state` of the run that is resumed."""
        self.summary |= {key: list(state[key]) for key in ("epochs", "evaluations")}
        for record in state["evaluations"]:
            self._check_reached(record)
        if self._patience and "patience" in state:
            self._patience.load_state_dict(state["patience"])
        if "training_loss" in state:
            self.loss.load_state_dict(state["training_loss"])

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, JSON-able, for a record in another process."""
        return {
            "summary": self.summary,
            "timeline": self.timeline,
            "warnings": self.warnings,
            "means": self._epoch_means,
            "training_loss": self.loss.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.summary, self.timeline, self.warnings = state["summary"], state["timeline"], state["warnings"]
        self._epoch_means = state["means"]
        self.loss.load_state_dict(state["training_loss"])


def early_stopping_record(
    patience: Patience, evaluations: Sequence[Mapping[str, Any]], ended: str
) -> dict[str, Any]:
    """Return the best validation, whose weights were tested (None without any), and what ended training.

    Args:
        evaluations: records with `epoch`, `step` and the results on the validation set.
        ended: "patience", "until", "minutes", "signal" or "epochs".
    """
    best = next((record for record in evaluations if record["step"] == patience.best_at), None)
    kept = best and {k: v for k, v in best.items() if k in ("epoch", "step") or k.startswith("validation_")}
    return {"best": kept, "ended": ended}


def skipped_warnings(stages: list[dict[str, Any]]) -> list[str]:
    """Return a line for each stage that skipped batches, from what the stages report."""
    return [
        f"stage {s['index']} did not learn from {s['skipped']} of {s['steps']} batches, as an activation, a "
        "gradient or a loss was NaN or infinite"
        for s in stages
        if s.get("skipped")
    ]


def useless_sg_warnings(stages: list[dict[str, Any]]) -> list[str]:
    """Return a line for each stage whose SG network predicted next to nothing of its targets."""
    return [
        f"the SG network of stage {s['index']} predicted next to nothing of its targets (cosine "
        f"{s['sg_cosine']:.2f} in the last epoch): its layers may be worse than untrained ones; compare with "
        "--rule frozen, or try another --sg.kind"
        for s in stages
        if s.get("sg_updates", 0) >= LEAST_SG_UPDATES
        and s.get("sg_cosine") is not None
        and s["sg_cosine"] < LEAST_SG_COSINE
    ]
