"""Marks that come back become the record of the run."""

import json
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from dni_async.messages import Marker, MarkerKind
from launch.config.train import TrainConfig
from launch.job.context import RankContext
from launch.job.partition_plan import PartitionPlan
from launch.job.start import Start
from launch.report.files import JsonLines, jsonable
from launch.report.progress import Progress
from launch.report.recorder import Recorder
from tests.support import summaries as samples
from tests.support.tiny_task import Tiny
from workers.coordination.rendezvous import Rendezvous
from workers.failure.rank_runner import RankRunner
from workers.runtime.device import Placement

STEPS = 20
SG = {"sg_relative_error": 0.42, "sg_cosine": 0.91}


class AlreadyReported(Progress):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def start(self, *arguments):
        self.said.append(("start", *arguments))

    def update(self, *arguments):
        self.said.append(("update", *arguments))

    def epoch(self, record):
        self.said.append(("epoch", record["epoch"]))

    def close(self):
        self.said.append(("close",))


def result(loss, accuracy=None):
    test = None if accuracy is None else loss + 0.1
    return {
        "loss": loss,
        "test_loss": test,
        "test_accuracy": accuracy,
        "tested": 20 if accuracy else 0,
        "samples_per_s": 1000.0,
    }


def mark(kind, step, epoch, told, sg=SG, timeline=None):
    stages = {str(i): samples.stage(i, last=i == 1) for i in range(2)}
    stages["0"] |= sg
    del stages["1"]["sg_relative_error"], stages["1"]["sg_cosine"]
    for row in timeline or []:
        stages[str(row["stage"])]["timeline"] = [list(event) for event in row["events"]]
    return Marker(kind, step, epoch, returning=True, body={"result": told} | stages)


def recorder(
    out=None,
    progress=None,
    task=None,
    start=0,
    record=None,
    before=None,
    restart=0,
    lost_steps=0,
    store=None,
    **settings,
):
    """A recorder that has started, of a job of two stages.

    Args:
        restart: how often the launcher has started the job again; `store` is what it keeps meanwhile.
    """
    task = task or Tiny()
    config = TrainConfig.of(
        **{"task": "my:Tiny", "seed": 7, "epochs": 2, "stages": 2, "out": str(out or "")} | settings
    )
    plan = PartitionPlan([(0, 2), (2, 5)], [], [], [], 0, STEPS, 50, 20, start=start)
    context = RankContext(
        RankRunner(),
        config,
        task,
        plan,
        Rendezvous(0, 2, 0, 2, dist.HashStore(), store, restart, max_restarts=3),
        Placement(torch.device("cpu"), 1, []),
        None,
        Start(record=record, notes=["made-up data"], lost_steps=lost_steps),
        SimpleNamespace(record=lambda: before) if before else None,
    )
    made = Recorder(context, progress or AlreadyReported())
    made.start(["shm"])
    return made


def later(rows, by):
    return [
        {"stage": row["stage"], "events": [[e[0], e[1] + by, *e[2:]] for e in row["events"]]} for row in rows
    ]


def feed(record):
    """Two epochs with a report in the second, and the end."""
    record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5)))
    record.on_marker(mark(MarkerKind.REPORT, STEPS + 5, 2, result(0.8)))
    record.on_marker(mark(MarkerKind.EPOCH, 2 * STEPS, 2, result(0.7, 0.75)))
    end = mark(
        MarkerKind.STOP,
        2 * STEPS,
        2,
        result(None),
        {"sg_relative_error": None},
        later(samples.pipeline(), 9e6),
    )
    record.on_marker(end)
    return record


def test_the_summary_says_what_ran_and_how_it_went():
    summary = feed(recorder()).summary
    assert (summary["task"], summary["engine"], summary["rule"], summary["seed"]) == (
        "Tiny",
        "cdni",
        "cdni",
        7,
    )
    assert summary["dataset"] == {"train": 50, "test": 20}
    assert summary["notes"] == ["made-up data"]
    assert summary["transports"] == ["shm"]
    assert summary["metric_name"] == "accuracy"
    assert summary["samples_per_s"] == 1000.0
    assert summary["final"] == {"loss": 0.7, "test_loss": pytest.approx(0.8), "test_accuracy": 0.75}
    assert summary.keys() == {
        *("task", "engine", "rule", "seed", "dataset", "notes", "versions", "hardware", "settings"),
        *("samples_per_s", "train_s", "total_s", "metric_name", "epochs", "final", "transports"),
        *("stages", "overlap", "evaluations", "until", "precision", "emulated_gflops", "checkpoints"),
        *("restarts", "facts", "early_stopping", "losses", "links", "module_layers"),
    }


def test_a_task_says_how_the_mean_of_its_metric_is_shown_and_what_it_knows_of_the_data():
    class Percent(Tiny):
        metadata = {"symbols": 3}  # noqa: RUF012

        def reported(self, mean):
            return 100 * mean

    record = recorder(task=Percent())
    told = mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5))
    told.body["0"]["local_accuracy"] = 0.25
    record.on_marker(told)
    record.on_marker(mark(MarkerKind.STOP, STEPS, 1, result(None), timeline=samples.pipeline()))
    assert record.summary["final"]["test_accuracy"] == 50.0
    assert record.summary["stages"][0]["local_accuracy"] == 25.0
    assert record.summary["facts"] == {"symbols": 3}


def test_an_emulation_slower_than_its_devices_is_reported_at_the_end(monkeypatch):
    with_overrun = samples.stage
    monkeypatch.setattr(
        samples, "stage", lambda i, last: with_overrun(i, last) | {"emulation_overrun": 0.2 * i}
    )
    record = feed(recorder(emulate_gflops=2.5))
    assert record.summary["emulated_gflops"] == 2.5
    assert [line.split(":")[0] for line in record.record.warnings] == [
        "this machine does not keep up with the devices that it emulates"
    ]
    assert record.summary["notes"] == ["made-up data", *record.record.warnings]


def test_without_emulation_no_overrun_is_reported():
    record = feed(recorder())
    assert (record.summary["emulated_gflops"], record.record.warnings) == (None, [])


def test_epochs_come_with_their_means_and_the_time_since_the_start():
    summary = feed(recorder()).summary
    assert [(e["epoch"], e["loss"], e["test_accuracy"]) for e in summary["epochs"]] == [
        (1, 0.9, 0.5),
        (2, 0.7, 0.75),
    ]
    first, second = (e["seconds"] for e in summary["epochs"])
    assert 0 < first < second == summary["train_s"] < summary["total_s"] < 30


def reaching(until, *accuracies):
    """The summary when the test set was evaluated every half epoch, with these results."""
    record = recorder(until=until, evaluations=2)
    for half, accuracy in enumerate(accuracies, 1):
        kind = MarkerKind.EVALUATION if half % 2 else MarkerKind.EPOCH
        record.on_marker(mark(kind, half * STEPS // 2, (half + 1) // 2, result(0.9, accuracy)))
    record.on_marker(
        mark(MarkerKind.STOP, half * STEPS // 2 + 3, 2, result(None), timeline=samples.pipeline())
    )
    return record.summary


def test_evaluations_within_an_epoch_are_recorded_apart():
    summary = reaching(None, 0.2, 0.4, 0.6)
    assert [(e["epoch"], e["step"], e["test_accuracy"]) for e in summary["evaluations"]] == [
        (0.5, 10, 0.2),
        (1, 20, 0.4),
        (1.5, 30, 0.6),
    ]
    assert summary["epochs"] == summary["evaluations"][1:2]
    assert summary["until"] is None
    assert summary["final"]["test_accuracy"] == 0.6
    assert summary["train_s"] == summary["evaluations"][-1]["seconds"]


def test_an_evaluation_that_reaches_the_accuracy_ends_training():
    record = recorder(until=0.5)
    record.on_marker(mark(MarkerKind.EVALUATION, 10, 1, result(0.9, 0.49)))
    assert not record.record.reached
    record.on_marker(mark(MarkerKind.EPOCH, 20, 1, result(0.9, 0.5)))
    assert record.record.reached and record.should_stop


def test_without_a_target_accuracy_no_evaluation_ends_training():
    record = recorder()
    record.on_marker(mark(MarkerKind.EPOCH, 20, 1, result(0.0, 1.0)))
    assert not record.record.reached and not record.should_stop


@pytest.mark.parametrize(("minutes", "enough"), [(1e-9, True), (60.0, False)])
def test_training_ends_when_its_minutes_are_over(minutes, enough):
    assert recorder(minutes=minutes).should_stop is enough


def test_the_minutes_of_a_job_go_on_after_a_restart_and_begin_again_when_it_is_resumed(monkeypatch):
    now, store = [1000.0], dist.HashStore()
    monkeypatch.setattr("time.time", lambda: now[0])
    earlier = recorder().resume_state() | {"seconds": 7200.0}
    recorder(minutes=10.0, start=STEPS, record=earlier, store=store)
    now[0] += 540
    restarted = recorder(minutes=10.0, start=STEPS, record=earlier, store=store, restart=1)
    assert 50 < restarted._end - time.perf_counter() <= 60
    now[0] += 61
    assert recorder(minutes=10.0, store=store, restart=2).should_stop


def test_a_stage_0_that_is_started_again_alone_does_not_start_the_minutes_of_the_job_again(monkeypatch):
    now, store = [1000.0], dist.HashStore()
    monkeypatch.setattr("time.time", lambda: now[0])
    before = jsonable(recorder(minutes=10.0, store=store).state_dict())
    now[0] += 540
    recorder(minutes=10.0, store=store, before=before)
    restarted = recorder(minutes=10.0, store=store, restart=1)
    assert 50 < restarted._end - time.perf_counter() <= 60


def test_the_first_evaluation_that_reaches_the_accuracy_counts():
    summary = reaching(0.4, 0.2, 0.3, 0.45, 0.9)
    seconds = summary["evaluations"][2]["seconds"]
    assert summary["until"] == {
        "accuracy": 0.4,
        "reached": True,
        "seconds": seconds,
        "seconds_without_evaluations": pytest.approx((50 + 10 * 256) / 1000.0),  # at 1000 samples/s
        "epochs": 1.5,
        "steps": 30,
    }


def test_an_accuracy_that_was_not_reached_has_no_seconds():
    assert reaching(0.95, 0.2, 0.3)["until"] == {
        "accuracy": 0.95,
        "reached": False,
        "seconds": None,
        "seconds_without_evaluations": None,
        "epochs": None,
        "steps": None,
    }


def test_stages_come_in_order_with_the_agreement_of_the_last_whole_epoch():
    first, second = feed(recorder()).summary["stages"]
    assert (first["index"], second["index"]) == (0, 1)
    wanted = {"layers", "parameters", "steps", "busy_s", "utilisation", "staleness_mean", "peak_rss_bytes"}
    assert wanted <= first.keys() and wanted <= second.keys()
    assert (first["sg_relative_error"], first["sg_cosine"]) == (0.42, 0.91)
    assert "sg_cosine" not in second
    assert "timeline" not in first and "timeline" not in second


def test_local_losses_are_of_the_last_whole_epoch_too():
    record, means = recorder(), {"local_loss": 0.25, "local_accuracy": 0.9}
    record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5), SG | means))
    nothing = dict.fromkeys(means)
    record.on_marker(mark(MarkerKind.STOP, STEPS, 1, result(None), SG | nothing, samples.pipeline()))
    assert record.summary["stages"][0].items() >= means.items()


def test_the_timeline_starts_at_zero_and_overlaps():
    record = feed(recorder())
    assert record.record.timeline == samples.pipeline()
    assert 0.5 < record.summary["overlap"] <= 1.0


def test_a_run_without_events_has_an_empty_timeline():
    record = recorder()
    record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5)))
    empty = [{"stage": 0, "events": []}, {"stage": 1, "events": []}]
    record.on_marker(mark(MarkerKind.STOP, STEPS, 1, result(None), timeline=empty))
    assert record.record.timeline == empty and record.summary["overlap"] == 0.0


def test_progress_counts_the_steps_of_the_epoch_and_the_loss_of_the_last_stage():
    told = AlreadyReported()
    feed(recorder(progress=told))
    shown = [
        {"step": 1170, "utilisation": 0.971, "staleness": 1.02},
        {"step": 1170, "utilisation": pytest.approx(0.951), "staleness": None, "loss": 0.8},
    ]
    assert told.said == [
        ("start", 2, 2, 1),
        ("epoch", 1),
        ("update", 5, STEPS, 1000.0, shown),
        ("epoch", 2),
        ("close",),
    ]


def test_every_marker_but_the_last_is_written_to_the_metrics_at_once(tmp_path):
    record = recorder(tmp_path)
    record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5)))
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    record.on_marker(mark(MarkerKind.REPORT, STEPS + 5, 2, result(0.8)))
    record.on_marker(mark(MarkerKind.EPOCH, 2 * STEPS, 2, result(0.7, 0.75)))
    record.on_marker(mark(MarkerKind.STOP, 2 * STEPS, 2, result(None), timeline=samples.pipeline()))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["epoch"], line["loss"]) for line in lines] == [
        ("epoch", 1, 0.9),
        ("report", 2, 0.8),
        ("epoch", 2, 0.7),
    ]
    assert lines[1]["step"] == STEPS + 5
    for line in lines:
        assert line["seconds"] > 0
        assert [stage["index"] for stage in line["stages"]] == [0, 1]


def test_a_new_run_replaces_the_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("old\n")
    feed(recorder(tmp_path))
    assert "old" not in (tmp_path / "metrics.jsonl").read_text()


def test_the_recorder_writes_all_files(tmp_path):
    record = feed(recorder(tmp_path))
    record.write_files()
    assert sorted(os.listdir(tmp_path)) == [
        "curves.png",
        "metrics.jsonl",
        "summary.json",
        "timeline.json",
        "timeline.png",
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["final"] == record.summary["final"]
    assert summary["settings"]["milestones"] == [0.6, 0.8]
    trace = json.loads((tmp_path / "timeline.json").read_text())
    work = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(work) == sum(len(row["events"]) for row in samples.pipeline())
    for name in ("curves.png", "timeline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    feed(recorder()).write_files()
    assert os.listdir(tmp_path) == []


def test_a_resumed_record_continues_from_its_checkpoint(tmp_path):
    record = recorder(tmp_path)
    record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5)))
    resumed = json.loads(json.dumps(record.resume_state()))
    record.on_marker(mark(MarkerKind.REPORT, STEPS + 5, 2, result(0.8)))
    resumed["seconds"] += 100.0
    record._lines.close()  # as the end of its process would
    with open(tmp_path / "metrics.jsonl", "ab") as lines:
        lines.write(b'{"other": 1}\n{"step": "x"}\n{"step": 3, "\xc3')  # damaged

    again = recorder(tmp_path, start=STEPS + 2, record=resumed, epochs=3)
    assert again.progress.said == [("start", 3, 2, 2)]
    again.on_marker(mark(MarkerKind.EPOCH, 2 * STEPS, 2, result(0.7, 0.75)))
    again.on_marker(mark(MarkerKind.STOP, 2 * STEPS, 2, result(None), timeline=samples.pipeline()))
    assert [epoch["test_accuracy"] for epoch in again.summary["epochs"]] == [0.5, 0.75]
    assert again.summary["train_s"] > 100 > again.summary["epochs"][0]["seconds"]
    assert again.summary["checkpoints"]["resumed_at"] == STEPS + 2
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("epoch", STEPS), ("epoch", 2 * STEPS)]


def test_an_accuracy_that_was_reached_before_the_checkpoint_stays_reached():
    record = recorder(until=0.5)
    record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5)))
    again = recorder(start=STEPS, record=record.resume_state(), until=0.5)
    assert again.record.reached and again.summary["until"]["steps"] == STEPS


def test_a_finished_run_that_is_resumed_has_its_results():
    record = recorder()
    record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5)))
    again = recorder(start=STEPS, record=record.resume_state())
    empty = [{"stage": 0, "events": []}, {"stage": 1, "events": []}]
    again.on_marker(mark(MarkerKind.STOP, STEPS, 1, result(None), timeline=empty))
    assert again.summary["final"]["test_accuracy"] == 0.5


def test_checkpoints_are_counted_and_the_first_failure_is_reported(capsys):
    record = recorder()
    assert record.summary["checkpoints"] == {"written": 0, "failed": 0, "resumed_at": None}
    for problem in (None, "stage-1.safetensors: No space left on device", "again", None):
        record.on_checkpoint(STEPS, problem)
    assert record.summary["checkpoints"] == {"written": 2, "failed": 2, "resumed_at": None}
    line = (
        f"checkpoint of step {STEPS} could not be written (stage-1.safetensors: No space left on device); "
        "the one before is kept"
    )
    assert record.record.warnings == [line]
    assert capsys.readouterr().err == f"dni-async: {line}\n"


def test_a_record_continues_in_another_process_from_any_message(tmp_path):
    """With a line that nobody has accounted for, and half of one."""
    record = recorder(tmp_path, until=0.6, minutes=5.0)
    record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5)))
    record.on_checkpoint(STEPS, "no space")
    state = json.loads(json.dumps(jsonable(record.state_dict())))
    record.on_marker(mark(MarkerKind.REPORT, STEPS + 5, 2, result(0.8)))
    record._lines.close()
    with open(tmp_path / "metrics.jsonl", "a") as lines:
        lines.write('{"kind": "rep')

    again = recorder(tmp_path, before=state, until=0.6)
    assert again.progress.said == [("start", 2, 2, 2)]
    assert (again._start, again._end) == (record._start, record._end)
    assert again.summary == json.loads(json.dumps(record.summary))
    again.on_marker(mark(MarkerKind.EPOCH, 2 * STEPS, 2, result(0.7, 0.75)))
    assert again.record.reached
    again.on_marker(mark(MarkerKind.STOP, 2 * STEPS, 2, result(None), timeline=samples.pipeline()))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("epoch", STEPS), ("epoch", 2 * STEPS)]
    assert [epoch["test_accuracy"] for epoch in again.summary["epochs"]] == [0.5, 0.75]
    assert any("no space" in note for note in again.summary["notes"])
    finished = json.loads(json.dumps(jsonable(again.state_dict())))
    assert finished["timeline"] == json.loads(json.dumps(again.record.timeline))
    assert finished["summary"]["final"]["test_accuracy"] == 0.75


def test_an_sg_network_that_taught_nothing_in_the_last_epoch_is_reported_at_the_end():
    for cosine, reported in ((0.02, 1), (0.9, 0)):
        record = recorder()
        sg = SG | {"sg_cosine": cosine, "sg_updates": 5000}
        record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5), sg))
        record.on_marker(
            mark(MarkerKind.STOP, STEPS, 1, result(None), sg | {"sg_cosine": None}, samples.pipeline())
        )
        notes = record.summary["notes"]
        assert len(notes) == 1 + reported and ("SG network of stage 0" in notes[-1]) == bool(reported)


@pytest.mark.parametrize(
    ("evaluated", "settings", "interrupted"),
    [
        (True, {}, False),
        (False, {}, True),  # the signal came in the last evaluation, which was not completed
        (False, {"until": 0.5}, False),
    ],
)
def test_a_run_is_marked_as_interrupted_if_a_signal_has_cut_it_short(evaluated, settings, interrupted):
    record = recorder(**settings)
    record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5)))
    if evaluated:
        record.on_marker(mark(MarkerKind.EPOCH, 2 * STEPS, 2, result(0.7, 0.75)))
    record._context.runner.interruption.signum = signal.SIGTERM
    end = mark(MarkerKind.STOP, 2 * STEPS, 2, result(None), timeline=samples.pipeline())
    end.body["0"]["steps"] = 2 * STEPS
    record.on_marker(end)
    noted = {"signal": "SIGTERM", "step": 2 * STEPS} if interrupted else None
    assert record.summary.get("interrupted") == noted


def test_restarted_stages_are_reported_at_the_end():
    record = recorder()
    record.on_marker(mark(MarkerKind.EPOCH, STEPS, 1, result(0.9, 0.5)))
    end = mark(MarkerKind.STOP, STEPS, 1, result(None), timeline=samples.pipeline())
    for stage, (restarts, lost) in enumerate([(1, 7), (2, 5)]):
        end.body[str(stage)] |= {"restarts": restarts, "lost_updates": lost}
    record.on_marker(end)
    assert "stages that died and were started again: 3; updates lost: 12" in record.summary["notes"]


@pytest.mark.parametrize(
    ("lost", "note"), [(37, "restarts: 2; steps lost and trained again: 37"), (None, "restarts: 2")]
)
def test_a_restarted_job_names_the_lost_steps_if_they_are_known(lost, note):
    summary = feed(recorder(restart=2, lost_steps=lost)).summary
    assert summary["restarts"] == {"count": 2, "lost_steps": lost}
    assert summary["notes"][-1] == note


def validating(losses, patience=1, epochs=9, end=0, **settings):
    """The record of a run with such validation losses, which stopped so many steps after the last."""
    record = recorder(patience=patience, epochs=epochs, **settings)
    for epoch, loss in enumerate(losses, 1):
        record.on_marker(mark(MarkerKind.EPOCH, epoch * STEPS, epoch, result(loss - 0.1, 0.9 - loss)))
    over, step = record.should_stop, len(losses) * STEPS + end
    stop = mark(MarkerKind.STOP, step, 9, result(0.05, 0.625), timeline=samples.pipeline())
    for i in range(2):
        stop.body[str(i)]["steps"] = step
    record.on_marker(stop)
    return over, record.summary


def test_with_patience_evaluations_are_validations_and_the_end_is_the_test():
    over, summary = validating([0.5, 0.25, 0.75], end=3)
    assert over
    assert [e["validation_loss"] for e in summary["epochs"]] == [0.5, 0.25, 0.75]
    assert not any(key.startswith("test_") for e in summary["evaluations"] for key in e)
    assert summary["final"] == {"loss": 0.65, "test_loss": pytest.approx(0.15), "test_accuracy": 0.625}
    best = {"epoch": 2, "step": 2 * STEPS, "validation_loss": 0.25, "validation_accuracy": 0.65}
    assert summary["early_stopping"] == {"best": best, "ended": "patience"}
    assert summary["train_s"] == summary["epochs"][-1]["seconds"]


@pytest.mark.parametrize(
    ("losses", "settings", "ended"),
    [
        ([0.5, 0.6], {}, "patience"),
        ([0.5, 0.6], {"patience": 2, "epochs": 2}, "epochs"),
        ([0.5, 0.3], {"until": 0.55}, "until"),
        ([0.5, 0.3], {"minutes": 1e-9, "end": 7}, "minutes"),
    ],
)
def test_the_summary_says_what_ended_training(losses, settings, ended):
    assert validating(losses, **settings)[1]["early_stopping"]["ended"] == ended


def test_a_run_that_ended_before_any_validation_has_no_best_epoch():
    _, summary = validating([], end=5, minutes=1e-9)
    assert summary["early_stopping"] == {"best": None, "ended": "minutes"}
    assert summary["final"] == {"loss": None, "test_loss": pytest.approx(0.15), "test_accuracy": 0.625}


def test_a_resumed_record_keeps_its_count_of_patience():
    record = recorder(patience=2, epochs=9)
    for epoch, loss in ((1, 0.25), (2, 0.5)):
        record.on_marker(mark(MarkerKind.EPOCH, epoch * STEPS, epoch, result(loss - 0.1, 0.5)))
    resumed = json.loads(json.dumps(record.resume_state()))
    again = recorder(start=2 * STEPS, record=resumed, patience=2, epochs=9)
    assert not again.should_stop
    again.on_marker(mark(MarkerKind.EPOCH, 3 * STEPS, 3, result(0.3, 0.5)))
    assert again.should_stop


def test_a_restore_marker_is_not_recorded():
    record = recorder(patience=1)
    record.on_marker(mark(MarkerKind.RESTORE, STEPS, 1, result(0.5)))
    assert record.summary["evaluations"] == []


def test_metrics_that_cannot_be_written_do_not_end_the_run(tmp_path, monkeypatch, capsys):
    def full(lines, record):
        raise OSError(28, "No space left on device")

    record = recorder(tmp_path)
    monkeypatch.setattr(JsonLines, "write", full)
    feed(record)
    line = f"cannot write {tmp_path / 'metrics.jsonl'} (No space left on device)"
    assert capsys.readouterr().err == f"dni-async: {line}; training goes on\n"
    assert record.write_files() == [line]
    assert (tmp_path / "summary.json").exists()


def test_a_picture_that_cannot_be_drawn_is_named_and_all_else_is_written(tmp_path, monkeypatch):
    def broken(summary, path):
        raise ValueError("a width must\nbe positive")

    record = feed(recorder(tmp_path))
    monkeypatch.setattr("launch.report.curves_plot.plot_curves", broken)
    monkeypatch.setitem(sys.modules, "launch.report.timeline_plot", None)
    imported, drawn = record.write_files()
    assert imported.startswith(f"cannot draw {tmp_path / 'timeline.png'} (ModuleNotFoundError: ")
    assert drawn.startswith(f"cannot draw {tmp_path / 'curves.png'} (ValueError: a width must be positive (")
    assert json.loads((tmp_path / "summary.json").read_text())["final"]["loss"] == 0.7
    assert json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]


def test_a_line_of_metrics_has_the_mean_loss_since_the_line_before(tmp_path):
    record = recorder(tmp_path)
    reports = (("REPORT", 5, 0.9, 10), ("EPOCH", STEPS, 0.6, 40), ("REPORT", 25, 0.4, 10))
    for kind, step, loss, trained in reports:
        told = result(loss, 0.5 if kind == "EPOCH" else None) | {"trained": trained}
        record.on_marker(mark(MarkerKind[kind], step, 1 + step // (STEPS + 1), told))
    record._lines.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["recent_loss"] for line in lines] == pytest.approx([0.9, 0.5, 0.4])
