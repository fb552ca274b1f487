"""Every engine can be found, and says what a job must know."""

from importlib import import_module

import pytest

from launch.config.compare import CompareConfig
from launch.engines.registry import BASELINES, ENGINES


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
    job = CompareConfig(stages=3, cut="1,2", threads=0).job(engine, tmp_path)
    assert (job.stages, job.cut, job.threads) == (stages, cut, threads)
    assert job.engine_name == engine and job.out == str(tmp_path)
