"""Engines side by side."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dni_async.errors import StageError, UserError
from dni_async.networks.settings import SGConfig
from launch import compare
from launch.config.train import TrainConfig
from launch.job.run_lock import RunLock
from launch.local.wan import Wire, far_hosts
from launch.report.files import prepare_out, write_json
from tasks.base import Task
from tasks.vision.digits import DigitsFcn
from tests.support import summaries as samples
from tests.support.forks import Job
from tests.support.jobs import TINY, run
from workers.failure.errors import AlreadyReported
from workers.failure.rank_runner import RankRunner


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A comparison of backprop, stages and the wrapper: its folder and what it printed."""
    out = tmp_path_factory.mktemp("compared") / "run"
    until = ("--epochs", "40", "--until", "0.8", "--evaluations", "2")
    engines = ("--engines", "backprop", "cdni", "cdni-local", "--stages", "2")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(printed):
        contest(monkeypatch, forked, *engines, *until, "--out", str(out))
    return out, printed.getvalue()


def forked(job: TrainConfig, task: Task) -> None:
    """The job in real processes, which need not import torch first."""
    ranks = max(1, job.partition.stages)
    with Job(job, task, ranks, Path(job.output.out).with_suffix(".job")) as running:
        assert running.statuses() == [0] * ranks, running.lines()
    shutil.copytree(running.out, job.output.out, dirs_exist_ok=True)


def test_every_engine_runs_in_a_job_of_its_own_and_gets_a_row(compared: tuple[Path, str]) -> None:
    out, printed = compared
    rows = json.loads((out / "compare.json").read_text())["rows"]
    engines = [(row["engine"], row["stages"]) for row in rows]
    assert engines == [("backprop", 1), ("cdni", 2), ("cdni-local", 1)]
    for row in rows:
        summary = json.loads((out / row["engine"] / "summary.json").read_text())
        assert row["samples_per_s"] == summary["samples_per_s"]
        assert row["test_accuracy"] == summary["final"]["test_accuracy"]
        assert row["train_s"] == summary["train_s"]
        assert row["until"]["reached"] == 1 and 0 < row["until"]["epochs"] < 40
        assert row["until"]["seconds"] == summary["until"]["seconds"]
        assert len(row["peak_rss_bytes"]) == row["stages"] and min(row["peak_rss_bytes"]) > 1e7
    assert rows[0]["speedup"] == 1.0
    assert rows[1]["speedup"] == pytest.approx(rows[1]["samples_per_s"] / rows[0]["samples_per_s"])
    assert (
        min(rows[1]["held_bytes"]) > 64 * 32 * 4
    )  # a batch of activations, and of gradients on the way back
    assert "speed-up" in printed and "to 80.0 %" in printed and str(out) in printed


def test_table_and_picture_are_written(compared: tuple[Path, str]) -> None:
    out, _ = compared
    assert "| backprop" in (out / "compare.md").read_text()
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


def finished(job: TrainConfig) -> None:
    """What a job leaves that has ended well."""
    stages = max(1, job.partition.stages)
    run = samples.summary(
        job.engine_name, stages, seed=job.task.seed, samples_per_s=100.0 * (1 + job.task.seed)
    )
    write_json(prepare_out(job.output.out) / "summary.json", run)


def contest(
    monkeypatch: pytest.MonkeyPatch, run_local: Callable[[TrainConfig, Task], None], *arguments: str
) -> None:
    """A comparison whose jobs are `run_local`."""
    monkeypatch.setattr("launch.local.comparison.run_local", lambda job, task, hosts: run_local(job, task))
    monkeypatch.setattr("sys.argv", ["launch.compare", *TINY, *arguments])
    compare.work(RankRunner())


def test_engines_alternate_and_a_failed_engine_does_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def run_local(job: TrainConfig, task: Task) -> None:
        started.append(job.engine_name)
        if job.engine_name == "dni" and started.count("dni") == 2:
            raise AlreadyReported("stage 1 (rank 1), at step 7: the loss is nan", 2)
        finished(job)

    engines = ("--engines", "backprop", "dni", "cdni", "--repeats", "3", "--out", str(tmp_path))
    with pytest.raises(UserError, match=r"^failed: dni; the table says why$"):
        contest(monkeypatch, run_local, *engines)
    assert started == ["backprop", "dni", "cdni"] * 2 + ["backprop", "cdni"]
    rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert [row["engine"] for row in rows if "error" not in row] == ["backprop", "cdni"]
    assert rows[1]["error"] == "stage 1 (rank 1), at step 7: the loss is nan"
    for text in (capsys.readouterr().out, (tmp_path / "compare.md").read_text()):
        assert "dni failed: stage 1 (rank 1), at step 7: the loss is nan" in text
        assert "peak MB per stage" in text


def test_variants_alternate_and_each_has_a_row_and_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def run_local(job: TrainConfig, task: Task) -> None:
        started.append((job.engine_name, job.optimizer.lr, job.sg.rank))
        finished(job)

    variants = ("backprop", "cdni", "cdni lr=0.5 sg.rank=8")
    contest(monkeypatch, run_local, "--variants", *variants, "--repeats", "2", "--out", str(tmp_path))
    assert started == [("backprop", 1e-3, None), ("cdni", 1e-3, None), ("cdni", 0.5, 8)] * 2
    rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert [row["engine"] for row in rows] == list(variants)
    assert [row["speedup"] for row in rows] == [1.0, 1.0, 1.0]
    assert (tmp_path / "cdni lr=0.5 sg.rank=8-2" / "summary.json").is_file()
    assert "| cdni lr=0.5 sg.rank=8" in (tmp_path / "compare.md").read_text()


@pytest.mark.parametrize(("option", "seeds"), [((), [5, 5, 5]), (("--vary-seed",), [5, 6, 7])])
def test_repeats_share_the_seed_unless_it_shall_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...], seeds: list[int]
) -> None:
    settings = ("--engines", "backprop", "--repeats", "3", "--seed", "5", "--out", str(tmp_path))
    contest(monkeypatch, lambda job, task: finished(job), *settings, *option)
    told = json.loads((tmp_path / "compare.json").read_text())
    [row] = told["rows"]
    assert [run["seed"] for run in row["runs"]] == seeds
    assert row["samples_per_s"] == 100.0 * (1 + seeds[1])
    assert told["settings"]["repeats"] == 3


def test_a_comparison_from_python_returns_rows_for_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def run_local(job: TrainConfig, task: Task, hosts: object) -> None:
        trained.append((job.engine_name, job.sg.kind, job.task.seed, task))
        if job.engine_name == "dni":
            raise AlreadyReported("the loss is nan", 1)
        finished(job)

    monkeypatch.setattr("launch.local.comparison.run_local", run_local)
    task, sg = DigitsFcn(depth=3, width=32), SGConfig(kind="mlp")
    settings = {"repeats": 2, "vary_seed": True, "sg": sg, "out": str(tmp_path)}
    rows = compare.compare(task, variants=["backprop", "cdni lr=0.5", "dni"], **settings)
    assert trained[:2] == [("backprop", "mlp", 0, task), ("cdni", "mlp", 0, task)]
    assert [row["engine"] for row in rows] == ["backprop", "cdni lr=0.5", "dni"]
    assert (rows[0]["samples_per_s_min"], rows[0]["samples_per_s_max"]) == (100.0, 200.0)
    assert rows[1]["speedup"] == 1.0 and rows[2]["error"] == "the loss is nan"
    assert all(not isinstance(value, dict) for row in rows for value in row.values())
    written = json.loads((tmp_path / "compare.json").read_text())["settings"]
    assert written["task"] == "digits-fcn" and {"depth=3", "width=32"} <= set(written["task_args"])


REASONS = [
    ([UserError("the port is taken")] * 2, UserError, "the port is taken"),
    ([AlreadyReported("no such file", 2)] * 2, UserError, "no such file"),
    (
        [UserError("8 stages cannot share 4 layers"), AlreadyReported("rank 1 is gone", 1)],
        StageError,
        "every engine failed: backprop: 8 stages cannot share 4 layers; cdni: rank 1 is gone",
    ),
]


@pytest.mark.parametrize(("failures", "kind", "line"), REASONS, ids=["port", "file", "both"])
def test_when_all_engines_fail_the_status_is_2_only_if_all_found_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failures: list[Exception],
    kind: type[Exception],
    line: str,
) -> None:
    left = iter(failures)

    def run_local(job: TrainConfig, task: Task) -> None:
        raise next(left)

    with pytest.raises(kind) as error:
        contest(monkeypatch, run_local, "--engines", "backprop", "cdni", "--out", str(tmp_path))
    assert str(error.value) == line


def test_a_stop_ends_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_local(job: TrainConfig, task: Task) -> None:
        raise AlreadyReported("stopped by SIGINT", 130)

    with pytest.raises(AlreadyReported):
        contest(monkeypatch, run_local, "--engines", "backprop", "cdni", "--out", str(tmp_path))


def test_every_title_of_an_emulated_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_local(job: TrainConfig, task: Task) -> None:
        finished(job)
        path = Path(job.output.out) / "summary.json"
        write_json(path, json.loads(path.read_text()) | {"emulated_gflops": 2.5})

    contest(monkeypatch, run_local, "--engines", "backprop", "cdni", "--out", str(tmp_path))
    title = "60,000 training samples, emulated (2.5 GFLOP/s per stage)"
    assert title in json.loads((tmp_path / "compare.json").read_text())["title"]
    for text in (capsys.readouterr().out, (tmp_path / "compare.md").read_text()):
        assert text.count(title) == 2


def untouched(folder: Path) -> dict[str, str]:
    """Return the files below a folder with their content."""
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "file", ["summary.json", "weights/stage-0.safetensors", "checkpoints/step-00000012/x"]
)
def test_a_folder_that_no_comparison_made_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    kept = tmp_path / "cdni" / file
    kept.parent.mkdir(parents=True)
    kept.write_text("hours of training")
    before = untouched(tmp_path / "cdni")
    with pytest.raises(UserError, match=rf"^{tmp_path}/cdni is not of an earlier comparison; choose another"):
        contest(monkeypatch, running, "--engines", "backprop", "cdni", "--out", str(tmp_path))
    assert untouched(tmp_path / "cdni") == before and not (tmp_path / "backprop").exists()


def running(job: TrainConfig, task: Task) -> None:
    raise AssertionError("a job was started")


def test_a_comparison_empties_the_folders_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_local(job: TrainConfig, task: Task) -> None:
        assert not (Path(job.output.out) / "summary.json").exists()
        finished(job)

    for _ in range(2):
        contest(monkeypatch, run_local, "--engines", "backprop", "cdni", "--out", str(tmp_path))
    (tmp_path / "cdni" / "checkpoints").mkdir()  # somebody has trained there since
    with pytest.raises(UserError, match="cdni is not of an earlier comparison"):
        contest(monkeypatch, run_local, "--engines", "backprop", "cdni", "--out", str(tmp_path))


@pytest.mark.parametrize("used", [".", "backprop"])
def test_a_folder_in_which_something_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: str
) -> None:
    arguments = ("--engines", "backprop", "--out", str(tmp_path))
    contest(monkeypatch, lambda job, task: finished(job), *arguments)
    before = untouched(tmp_path / "backprop").keys()
    with RunLock(tmp_path / used), pytest.raises(UserError, match=r"^another run is writing to "):
        contest(monkeypatch, running, *arguments)
    assert untouched(tmp_path / "backprop").keys() >= before


@pytest.mark.slow
def test_engines_run_on_emulated_hosts(tmp_path: Path) -> None:
    """Each stage on a host of its own: links are not shared memory, and every title says how far they are."""
    try:
        with far_hosts(2, Wire(0.0, 1e9)):
            pass
    except UserError as error:
        pytest.skip(str(error))
    options = ("--engines", "cdni", "ddp", "backprop", "--stages", "2", "--epochs", "1", "--wan", "5,1000")
    done = run("launch.compare", *TINY, *options, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    compared = json.loads((tmp_path / "compare.json").read_text())
    assert [row["engine"] for row in compared["rows"] if "error" not in row] == ["cdni", "ddp", "backprop"]
    assert "emulated hosts 10 ms apart (round trip) at 1000 Mbit/s" in compared["title"]
    summary = json.loads((tmp_path / "cdni" / "summary.json").read_text())
    assert summary["transports"] == ["tcp"] and summary["in_flight"] > 4
    assert summary["settings"]["in_flight"] == "auto"
    (link,) = summary["links"]
    assert link["transport"] == "tcp" and 0.01 <= link["round_trip_s"] < 0.1
    assert 1e6 < link["downstream_bytes_per_s"] < 2 * 125e6
    assert link["bytes_per_step"]["downstream"] > 64 * 32 * 4 >= link["bytes_per_step"]["upstream"] > 0
    assert all(0 < used < 1 for used in link["utilisation"].values())


@pytest.mark.slow
def test_links_between_emulated_hosts_can_be_encrypted(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    try:
        with far_hosts(2, Wire(0.0, 1e9)):
            pass
    except UserError as error:
        pytest.skip(str(error))
    options = ("--engines", "cdni", "--stages", "2", "--epochs", "1", "--wan", "5,1000", "--encrypt")
    done = run("launch.compare", *TINY, *options, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert row["samples_per_s"] > 0
    summary = json.loads((tmp_path / "cdni" / "summary.json").read_text())
    assert summary["transports"] == ["tls"] and summary["links"][0]["round_trip_s"] >= 0.01


@pytest.mark.slow
def test_three_stages_run_on_a_chain_of_three_hosts(tmp_path: Path) -> None:
    """Every link is between hosts and has its own speed; gloo's engines find their neighbours, too."""
    try:
        with far_hosts(3, Wire(0.0, 1e9)):
            pass
    except UserError as error:
        pytest.skip(str(error))
    options = ("--engines", "cdni", "1f1b", "--stages", "3", "--epochs", "1", "--wan", "5,1000")
    done = run("launch.compare", *TINY, *options, "--out", str(tmp_path), timeout=180.0)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert [(row["engine"], row["stages"]) for row in rows if "error" not in row] == [
        ("cdni", 3),
        ("1f1b", 3),
    ]
    summary = json.loads((tmp_path / "cdni" / "summary.json").read_text())
    assert summary["transports"] == ["tcp", "tcp"]
    assert [link["stages"] for link in summary["links"]] == [[0, 1], [1, 2]]
    assert all(link["round_trip_s"] >= 0.01 for link in summary["links"])
    assert summary["final"]["test_accuracy"] is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engines", "backprop", "magic"), "unknown engine (magic)"),
        (("--task", "nope"), "unknown task (nope)"),
        (("--repeats", "0"), "repeats is 0"),
        (("--until", "1.5"), "until is 1.5"),
        (("--wan", "25"), "wan is 25; write LATENCY_MS,MBIT"),
        (("--seed", str(2**32 - 2), "--repeats", "3", "--vary-seed"), "seed is 4294967294; the last of 3"),
    ],
)
def test_input_that_is_wrong_for_all_ends_the_comparison_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr("launch.local.comparison.run_local", None)  # to call it would fail
    monkeypatch.setattr("sys.argv", ["launch.compare", *arguments])
    with pytest.raises(UserError) as error:
        compare.work(RankRunner())
    assert words in str(error.value) and "\n" not in str(error.value)


def test_bad_input_is_one_line_and_status_2() -> None:
    done = run("launch.compare", "--engines", "backprop", "magic")
    assert done.returncode == 2
    assert done.stderr.startswith("dni-async: unknown engine (magic)") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["summary.json", "checkpoints/step-4/manifest.json"])
def test_the_folder_of_a_training_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="has the results of a training run; choose another --out"):
        contest(monkeypatch, lambda job, task: finished(job), "--engines", "backprop", "--out", str(tmp_path))
