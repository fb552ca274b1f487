from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dni_async.errors import UserError
from launch.config.compare import CompareConfig
from launch.config.plan import PlanConfig
from launch.local.wan import Wire
from launch.planning import check as planning_check
from launch.planning import measure as module
from launch.planning.check import run_checks
from launch.planning.predict import Planner
from launch.planning.profile import Profile, settings_of
from tests.support.plans import BATCH, profile
from tests.support.tiny_task import Tiny
from workers.failure.rank_runner import RankRunner


def test_every_engine_runs_with_the_cut_that_was_predicted_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[tuple[str, int, str, int]] = []
    in_flight: list[int | str] = []

    def run_engine(
        config: CompareConfig, task: object, engine: str, out: Path, repeat: int, hosts: object
    ) -> dict[str, Any]:
        job = config.job(engine, out)
        in_flight.append(job.partition.in_flight)
        jobs.append((job.engine_name, job.partition.stages, job.partition.cut, job.task.batch_size))
        return {"error": "it broke", "status": 1} if engine == "dni" else {"samples_per_s": 2.0}

    monkeypatch.setattr(planning_check, "run_engine", run_engine)
    config = PlanConfig.of(engines=("dni", "backprop", "cdni"), batch_size=BATCH)
    measured = profile(6)
    monkeypatch.setattr(planning_check, "EMULATED", ())
    checks = run_checks(config, Tiny(), measured, tmp_path, RankRunner())
    assert jobs == [("backprop", 1, "", BATCH), ("dni", 2, "3", BATCH), ("cdni", 2, "3", BATCH)]
    assert in_flight == ["auto", 4, 4]
    predicted = Planner(measured, config.partition).predict("cdni", 2).samples_per_s
    assert [(c.engine, c.measured, c.reason) for c in checks] == [
        ("backprop", 2.0, ""),
        ("dni", None, "it broke"),
        ("cdni", 2.0, ""),
    ]
    assert checks[2].predicted == predicted
    assert [check.status for check in checks] == [0, 1, 0]


def test_more_stages_than_cores_are_emulated_each_with_a_profile_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A core here does 3 GFLOP in 24 s; an emulated device is 16 times slower."""
    jobs: list[tuple[int, float | None]] = []

    def run_engine(
        config: CompareConfig, task: object, engine: str, out: Path, repeat: int, hosts: object
    ) -> dict[str, Any]:
        jobs.append((config.partition.stages, config.runtime.emulate_gflops))
        return {"samples_per_s": 1.0}

    def measure(config: PlanConfig, task: object) -> Profile:
        return profile(6, settings=settings_of(config))

    monkeypatch.setattr(planning_check, "run_engine", run_engine)
    monkeypatch.setattr(module, "gflop_per_batch", lambda config, task: 3.0)
    monkeypatch.setattr(module, "measure", measure)
    config = PlanConfig.of(engines=("cdni",), batch_size=BATCH)
    checks = run_checks(config, Tiny(), profile(6), tmp_path, RankRunner())
    speed = float(f"{3 / 24 / 16:.2g}")
    assert jobs == [(2, None), (4, speed)]  # eight stages need eight layers
    assert [c.emulated for c in checks] == [False, True]


def test_at_a_distance_each_real_job_has_emulated_hosts_joined_by_that_wire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, Wire]] = []
    used: list[tuple[str, object, str]] = []

    @contextmanager
    def far_hosts(count: int, wire: Wire) -> Iterator[str]:
        made.append((count, wire))
        yield f"{count} hosts"

    def run_engine(
        config: CompareConfig, task: object, engine: str, out: Path, repeat: int, hosts: object
    ) -> dict[str, Any]:
        used.append((engine, hosts, config.runtime.transport))
        return {"samples_per_s": 1.0}

    monkeypatch.setattr(planning_check, "far_hosts", far_hosts)
    monkeypatch.setattr(planning_check, "run_engine", run_engine)
    config = PlanConfig.of(engines=("backprop", "cdni"), batch_size=BATCH, wan="25,1000")
    checks = run_checks(config, Tiny(), profile(6), tmp_path, RankRunner())
    assert used == [("backprop", "1 hosts", "tcp"), ("cdni", "2 hosts", "tcp")]
    assert made == [(1, Wire(0.025, 125e6)), (2, Wire(0.025, 125e6))]
    assert [check.emulated for check in checks] == [False, False]


def test_a_network_of_one_layer_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--check runs 2 stages, and the network has 1 layers"):
        run_checks(PlanConfig.of(), Tiny(), profile(1), tmp_path, RankRunner())
