"""Jobs of a sweep in turn, its tables, and a sweep that goes on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from dni_async.errors import StageError, UserError
from launch import sweep
from launch.config.train import TrainConfig
from launch.report.files import prepare_out, write_json
from tests.support import summaries as samples
from tests.support.jobs import TINY, run
from workers.failure.errors import AlreadyReported
from workers.failure.rank_runner import RankRunner

Job = tuple[str, int]


def finish(job: TrainConfig) -> None:
    """Leave what a job leaves that has ended well; more batches in flight, more samples/s."""
    in_flight = int(job.partition.in_flight)
    made = samples.summary(job.engine_name, samples_per_s=100.0 * in_flight, in_flight=in_flight)
    made["stages"][0]["staleness_mean"] = in_flight - 1.0
    write_json(prepare_out(job.output.out) / "summary.json", made | {"settings": job.as_json()})


def swept(
    monkeypatch: pytest.MonkeyPatch, run_local: Callable[[TrainConfig], None], *arguments: str
) -> list[Job]:
    """The jobs that a sweep starts, in which `run_local` runs."""
    started: list[Job] = []

    def start(job: TrainConfig, task: object, hosts: object) -> None:
        started.append((job.engine_name, int(job.partition.in_flight)))
        run_local(job)

    monkeypatch.setattr("launch.local.comparison.run_local", start)
    monkeypatch.setattr("sys.argv", ["launch.sweep", *TINY, *arguments])
    sweep.work(RankRunner())
    return started


ENGINES = ("--engines", "cdni", "delayed", "--repeats", "2", "--vary", "in-flight=2/8")
TURN = [("cdni", 2), ("delayed", 2), ("cdni", 8), ("delayed", 8)]


def test_all_runs_take_turns_and_the_tables_set_them_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swept(monkeypatch, finish, *ENGINES, "--out", str(tmp_path)) == TURN * 2
    text = (tmp_path / "sweep.md").read_text()
    assert "| engine | samples/s at in-flight 2 | samples/s at in-flight 8 |" in text
    assert "| cdni | 200 | 800 (400 %) |" in text
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert [(row["engine"], row["setting"]) for row in rows] == [
        (engine, {"in-flight": str(in_flight)}) for engine, in_flight in TURN
    ]
    assert [(row["share"], row["in_flight"], row["staleness"]) for row in rows] == [
        *[(1.0, 2, 1.0)] * 2,
        *[(4.0, 8, 7.0)] * 2,
    ]
    assert all(len(row["runs"]) == 2 for row in rows)
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "staleness" in capsys.readouterr().out


def test_a_sweep_that_was_interrupted_runs_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(job: TrainConfig) -> None:
        if (job.engine_name, job.partition.in_flight) == ("cdni", 8):
            raise AlreadyReported("stopped by SIGTERM", 143)
        finish(job)

    with pytest.raises(AlreadyReported):
        swept(monkeypatch, interrupted, *ENGINES, "--out", str(tmp_path))
    assert swept(monkeypatch, finish, *ENGINES, "--out", str(tmp_path)) == [*TURN[2:], *TURN]


def test_a_run_with_other_settings_does_not_count_as_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option, count in ((), 8), ((), 0), (("--seed", "1"), 8):
        assert len(swept(monkeypatch, finish, *ENGINES, *option, "--out", str(tmp_path))) == count


def test_a_run_that_a_signal_cut_short_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(job: TrainConfig) -> None:
        finish(job)
        if (job.engine_name, job.partition.in_flight) == ("cdni", 8):
            path = Path(job.output.out) / "summary.json"
            write_json(path, json.loads(path.read_text()) | {"interrupted": {"signal": "SIGTERM", "step": 3}})
            raise AlreadyReported("stopped by SIGTERM after step 3", 143)

    with pytest.raises(AlreadyReported):
        swept(monkeypatch, interrupted, *ENGINES, "--out", str(tmp_path))
    assert swept(monkeypatch, finish, *ENGINES, "--out", str(tmp_path)) == [*TURN[2:], *TURN]


def test_a_run_counts_as_finished_with_other_settings_that_do_not_change_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(monkeypatch, finish, *ENGINES, "--out", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    options = ("--quiet", "--port", "29511", "--timeout", "33", "--out", ".")
    assert swept(monkeypatch, finish, *ENGINES, *options) == []


def test_a_run_over_another_wire_does_not_count_as_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.local.comparison.far_hosts", lambda count, wire: nullcontext())
    for wan, count in ("5,1000", 8), ("5,1000", 0), ("25,100", 8):
        options = ("--wan", wan, "--out", str(tmp_path))
        assert len(swept(monkeypatch, finish, *ENGINES, *options)) == count


def test_a_combination_that_fails_is_a_row_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(job: TrainConfig) -> None:
        if job.partition.in_flight == 8 and job.engine_name == "delayed":
            raise AlreadyReported("the loss is nan", 1)
        finish(job)

    with pytest.raises(StageError, match=r"^failed: delayed with .*; the table says why$"):
        swept(monkeypatch, failing, *ENGINES, "--out", str(tmp_path))
    text = (tmp_path / "sweep.md").read_text()
    assert "| delayed | 200 | failed |" in text and "- delayed failed: the loss is nan" in text


def test_a_folder_of_something_else_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in-flight=8" / "cdni-1").mkdir(parents=True)
    (tmp_path / "in-flight=8" / "cdni-1" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not of an earlier comparison; choose another --out"):
        swept(monkeypatch, finish, *ENGINES, "--out", str(tmp_path))


def test_the_folder_of_a_training_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="has the results of a training run; choose another --out"):
        swept(monkeypatch, finish, *ENGINES, "--out", str(tmp_path))


@pytest.mark.slow
def test_a_sweep_runs_for_real_and_again_runs_nothing(tmp_path: Path) -> None:
    """Staleness follows from the batches in flight in lock step."""
    options = ("--engines", "cdni", "--epochs", "2", "--deterministic", "--vary", "in-flight=1/4")
    for _ in range(2):
        done = run("launch.sweep", *TINY, *options, "--out", str(tmp_path))
        assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert rows[0]["staleness"] < 1.1 < 3.0 < rows[1]["staleness"] < 4.1
    assert "--- cdni" not in done.stdout


def test_a_sweep_over_tasks_shows_the_metric_of_each_by_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish_task(job: TrainConfig) -> None:
        kind = {"metric_name": "negative squared error"} if job.task.name.endswith("Regression") else {}
        made = samples.summary(job.engine_name) | kind
        if kind:
            made["final"] = {"test_negative_squared_error": -0.25, "test_loss": 0.25}
            made["evaluations"] = []
        write_json(prepare_out(job.output.out) / "summary.json", made | {"settings": job.as_json()})

    monkeypatch.setattr("launch.local.comparison.run_local", lambda job, task, hosts: finish_task(job))
    tasks = "task=examples.whole_models:SkipMlp/examples.whole_models:Regression"
    arguments = ["--engines", "cdni", "local", "--vary", tasks, "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["launch.sweep", *arguments])
    sweep.work(RankRunner())
    text = (tmp_path / "sweep.md").read_text()
    assert "| engine | task SkipMlp | task Regression |" in text
    (line,) = [line for line in text.splitlines() if "negative squared error)" in line and "cdni" in line]
    assert " % |" in line and line.endswith("| -0.25 (negative squared error) |")
    assert "2 tasks, 2 stages" in text and "samples/s at task SkipMlp" in text
    assert (tmp_path / "sweep.png").exists()
