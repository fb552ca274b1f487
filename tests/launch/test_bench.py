from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from dni_async.errors import StageError, UserError
from launch import bench
from launch.bench import BenchConfig, chosen_of
from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.config.plan import PlanConfig
from launch.config.study import parse_study
from launch.config.sweep import parse_sweep
from launch.latency import LatencyConfig
from launch.local import bench_commands
from launch.local.bench_commands import measure
from launch.report import bench_document
from launch.report.bench_document import about, chapter, shown, write_document
from launch.report.bench_sections import SECTIONS, Section
from launch.windows import WindowsConfig
from tests.support.jobs import our_lines, run
from tests.support.tiny_task import Tiny  # noqa: F401  (named in a command below)
from workers.failure.errors import StdoutClosed
from workers.failure.rank_runner import RankRunner

ENGINES = ("backprop", "frozen")
TINY = Section(
    "tiny",
    "A tiny one",
    "Text.",
    tuple(
        f"compare --task tests.support.tiny_task:Tiny --engines {engine} --epochs 1 --batch-size 10"
        for engine in ENGINES
    ),
    ("compare.png", "frozen/timeline.png"),
)


def test_every_command_is_understood() -> None:
    configs = {
        "compare": CompareConfig,
        "latency": LatencyConfig,
        "plan": PlanConfig,
        "windows": WindowsConfig,
    }
    for command in (command for section in SECTIONS for command in section.commands):
        module, *arguments = shlex.split(command)
        if module == "sweep":
            assert parse_sweep(module, arguments)
        elif module == "study":
            assert parse_study(module, arguments)
        else:
            assert parse(configs[module], module, arguments)


def test_section_names_differ() -> None:
    names = [section.name for section in SECTIONS]
    assert len(set(names)) == len(names)


def test_sections_of_the_papers_size_run_only_when_named() -> None:
    paper = [section for section in SECTIONS if section.name.startswith("paper-")]
    assert paper
    assert not any(section in paper for section in chosen_of(BenchConfig()))
    assert chosen_of(BenchConfig(only=("paper-copy",))) == [paper[0]]
    assert chosen_of(BenchConfig(list=True)) == list(SECTIONS)


def test_a_section_that_was_not_measured_says_so() -> None:
    text = chapter(TINY, None)
    assert text.startswith("## A tiny one\n\nText.\n\nNot measured yet:\n\n`python -m launch.compare --task")
    gpu = next(section for section in SECTIONS if section.device == "cuda")
    assert "Not measured yet (no GPU was at hand)" in chapter(gpu, None)


def test_a_measured_section_shows_command_machine_and_table() -> None:
    record = about() | {"done": [{"command": "python -m launch.compare --x", "table": "| 1 |\n"}]}
    text = chapter(TINY, record)
    assert "`python -m launch.compare --x`" in text
    assert f"{record['date']}, {record['hardware']['cores']} cores of" in text
    assert "| 1 |" in text
    for picture in ("compare.png", "timeline.png"):
        assert f"![A tiny one](benchmarks/tiny/{picture})" in text


@pytest.mark.slow
def test_a_command_is_run_for_real(tmp_path: Path) -> None:
    done = bench_commands.run(TINY.commands[0], tmp_path)
    assert done["command"] == f"python -m launch.{TINY.commands[0]}"
    assert "| backprop |" in done["table"]
    assert (tmp_path / "compare.png").stat().st_size > 1000


def test_a_section_keeps_tables_data_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: str, out: Path, longest: float) -> dict[str, str]:
        (out / "frozen").mkdir(parents=True)
        for file in ("compare.json", "compare.png", "frozen/timeline.png"):
            (out / file).write_text(command)
        return {"command": shown(command), "table": f"of {command}"}

    monkeypatch.setattr(bench_commands, "run", run)
    measure(TINY, tmp_path / "tiny")
    record = json.loads((tmp_path / "tiny" / "measured.json").read_text())
    assert [done["table"] for done in record["done"]] == [f"of {command}" for command in TINY.commands]
    for number, command in zip(("", "-2"), TINY.commands, strict=True):
        for file in (f"compare{number}.json", f"compare{number}.png", f"timeline{number}.png"):
            assert (tmp_path / "tiny" / file).read_text() == command


def test_a_section_that_fails_keeps_what_was_measured_before(tmp_path: Path) -> None:
    wrong = Section("tiny", "t", "t", ("compare --task nowhere",))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "measured.json").write_text("{}")
    with pytest.raises(StageError, match="compare --task nowhere failed with exit status 2"):
        measure(wrong, tmp_path / "tiny")
    assert (tmp_path / "tiny" / "measured.json").read_text() == "{}"


def test_a_command_that_fails_leaves_the_results_of_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: str, out: Path, longest: float) -> dict[str, str]:
        if command == TINY.commands[1]:
            raise StageError("the second failed")
        out.mkdir()
        (out / "compare.json").write_text("new")
        return {"command": shown(command), "table": "of the first"}

    monkeypatch.setattr(bench_commands, "run", run)
    monkeypatch.setattr(bench, "SECTIONS", (TINY,))
    monkeypatch.setattr(bench_document, "SECTIONS", (TINY,))
    monkeypatch.setattr("sys.argv", ["bench", "--docs", str(tmp_path)])
    (folder := tmp_path / "benchmarks" / "tiny").mkdir(parents=True)
    for name in ("compare-2.json", "of the user"):
        (folder / name).write_text("old")
    with pytest.raises(StageError, match="the second failed"):
        bench.work(RankRunner())
    assert {path.name for path in folder.iterdir()} == {"compare.json", "measured.json", "of the user"}
    text = (tmp_path / "BENCHMARKS.md").read_text()
    assert text.index("of the first") < text.index("Not measured yet:") < text.index(shown(TINY.commands[1]))


def test_a_command_whose_reader_has_gone_ends_the_bench_as_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.CompletedProcess([], 141)
    monkeypatch.setattr("subprocess.run", lambda command, timeout: ended)
    with pytest.raises(StdoutClosed):
        bench_commands.run(TINY.commands[0], tmp_path)


def test_the_document_has_every_section_in_order(tmp_path: Path) -> None:
    write_document(tmp_path)
    text = (tmp_path / "BENCHMARKS.md").read_text()
    places = [text.index(f"## {section.title}\n") for section in SECTIONS]
    assert places == sorted(places)
    assert text.count("Not measured yet") == len(SECTIONS)


def test_a_full_disk_leaves_the_document_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "BENCHMARKS.md").write_text("before")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_document(tmp_path)
    assert (tmp_path / "BENCHMARKS.md").read_text() == "before"


def test_a_measurement_that_was_interrupted_goes_on_with_what_its_last_command_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, bool]] = []

    def run(command: str, out: Path, longest: float) -> dict[str, str]:
        ran.append((command, out.exists()))
        out.mkdir(parents=True, exist_ok=True)
        if ran[-1] == (TINY.commands[1], False):
            raise StageError("interrupted")
        return {"command": shown(command), "table": f"of {command}"}

    monkeypatch.setattr(bench_commands, "run", run)
    monkeypatch.setattr(bench_commands, "about", lambda: about() | {"date": f"day {len(ran)}"})
    with pytest.raises(StageError):
        measure(TINY, tmp_path / "tiny")
    measure(TINY, tmp_path / "tiny", resume=True)
    first, second = TINY.commands
    assert ran == [(first, False), (second, False), (second, True)]
    record = json.loads((tmp_path / "tiny" / "measured.json").read_text())
    assert [done["table"] for done in record["done"]] == [f"of {first}", f"of {second}"]
    text = chapter(TINY, record)
    places = [text.index(words) for words in ("day 1, ", f"of {first}", "day 3, ", f"of {second}")]
    assert places == sorted(places)
    assert not (tmp_path / "tiny" / "unfinished").exists()


def test_a_command_that_an_earlier_version_measured_keeps_its_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That version kept one date for all commands."""
    first, _ = map(shown, TINY.commands)
    (tmp_path / "tiny").mkdir()
    old = about() | {"date": "long ago", "done": [{"command": first, "table": "of old"}]}
    (tmp_path / "tiny" / "measured.json").write_text(json.dumps(old))
    monkeypatch.setattr(
        bench_commands, "run", lambda command, out, longest: {"command": shown(command), "table": ""}
    )
    measure(TINY, tmp_path / "tiny", resume=True)
    dates = [
        done["about"]["date"]
        for done in json.loads((tmp_path / "tiny" / "measured.json").read_text())["done"]
    ]
    assert dates == ["long ago", about()["date"]]


def test_an_unknown_section_is_bad_input() -> None:
    with pytest.raises(UserError, match=r"unknown section \(x\); use some of fcn"):
        BenchConfig(only=("x",))
    done = run("launch.bench", "--only", "x")
    assert (done.returncode, len(our_lines(done.stderr))) == (2, 1)


def test_listing_the_sections_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--list", "--docs", str(tmp_path)])
    bench.work(RankRunner())
    assert "fcn: Throughput" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
