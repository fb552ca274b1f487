"""Every engine can be found, and says what a job must know."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from dni_async.errors import UserError
from launch.config.compare import CompareConfig
from launch.engines.registry import BASELINES, ENGINES, Engine, engine_label, find_engine

RUN = "def run(context, recorder): ..."


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_can_be_run(name):
    assert callable(import_module(ENGINES[name].module).run)


def test_every_engine_but_decoupled_is_a_baseline():
    assert {*BASELINES, "decoupled"} == set(ENGINES)


@pytest.mark.parametrize(
    ("engine", "stages", "cut", "threads"),
    [
        ("backprop", 1, "", 1),
        ("backprop-all", 1, "", 1),
        ("ddp", 3, "", 0),
        ("1f1b", 3, "1,2", 0),
        ("dni-local", 1, "", 1),
        ("cdni", 3, "1,2", 0),
    ],
)
def test_in_a_comparison_every_engine_gets_its_number_of_processes(tmp_path, engine, stages, cut, threads):
    job = CompareConfig.of(stages=3, cut="1,2", threads=0).job(engine, tmp_path)
    assert (job.partition.stages, job.partition.cut, job.runtime.threads) == (stages, cut, threads)
    assert job.engine_name == engine and job.output.out == str(tmp_path)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def engine_module(folder: Path, package: str, source: str) -> str:
    (folder / package).mkdir()
    (folder / package / "mine.py").write_text(source)
    return f"{package}.mine"


def test_a_dotted_path_is_an_engine_called_by_its_last_part(modules: Path) -> None:
    source = f"from launch.engines.registry import Engine\nengine = Engine(cut=True)\n{RUN}"
    path = engine_module(modules, "declared_engines", source)
    assert find_engine(path) == Engine(module=path, cut=True)
    assert (engine_label(path), engine_label("gpipe")) == ("mine", "gpipe")


def test_an_engine_that_declares_nothing_runs_in_one_process(modules: Path) -> None:
    path = engine_module(modules, "silent_engines", RUN)
    assert find_engine(path) == Engine(module=path, processes=1)


@pytest.mark.parametrize(
    ("package", "source", "words"),
    [
        ("idle_engines", "", "engine module has no run(context, recorder) (idle_engines.mine)"),
        (
            "odd_engines",
            f"engine = 3\n{RUN}",
            "engine is of type int (odd_engines.mine)",
        ),
        ("broken_engines", "1 / 0", "engine module cannot be imported (broken_engines.mine): mend Zero"),
    ],
)
def test_what_is_wrong_with_an_engine_is_one_line(
    modules: Path, package: str, source: str, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        find_engine(engine_module(modules, package, source))
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sgd", "my_rule:Mine"])
def test_an_unknown_engine_is_told_with_those_that_are_known(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown engine \(.*\); use one of decoupled, backprop, "):
        find_engine(name)


def test_a_path_of_no_module_is_one_line() -> None:
    with pytest.raises(UserError, match=r"engine module not found \(absent_pkg.mine\): run where"):
        find_engine("absent_pkg.mine")
