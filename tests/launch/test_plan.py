"""The command, end to end; and what a user may get wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dni_async.errors import StageError, UserError
from launch import plan
from launch.config.plan import PlanConfig
from launch.plan import predict
from launch.planning.check import Check
from tests.support.jobs import TINY, run
from tests.support.plans import profile
from workers.failure.rank_runner import RankRunner


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A plan for digits, measured in a process of its own: its folder and what it printed."""
    out = tmp_path_factory.mktemp("planned")
    done = run("launch.plan", *TINY, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_a_plan_writes_profile_table_data_and_picture(planned: tuple[Path, str]) -> None:
    out, printed = planned
    assert {"profile.json", "plan.json", "plan.md", "plan.png"} <= {path.name for path in out.iterdir()}
    told = json.loads((out / "plan.json").read_text())
    rows = told["predictions"]
    assert [rows[0]["engine"], rows[0]["stages"], rows[0]["speedup"]] == ["backprop", 1, 1.0]
    assert {row["stages"] for row in rows[1:]} == {2, 4}
    cdni = next(row for row in rows if row["engine"] == "cdni")
    assert cdni["samples_per_s"] > 0 and 0 <= cdni["bubble"] < 1 and len(cdni["cut"]) == 1
    assert (out / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert "digits-fcn, 4 layers, batch 64: predicted" in printed and str(out) in printed
    assert re.search(r"^\| 2 \| cdni \|", (out / "plan.md").read_text(), re.M)


def test_a_saved_profile_gives_the_same_plan_again(
    planned: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = planned
    arguments = [*TINY, "--profile", str(out / "profile.json"), "--out", str(tmp_path), "--quiet"]
    monkeypatch.setattr("sys.argv", ["launch.plan", *arguments])
    plan.work(RankRunner())
    assert (tmp_path / "plan.json").read_text() == (out / "plan.json").read_text()


@pytest.mark.parametrize(("status", "kind"), [(1, StageError), (2, UserError)])
def test_a_check_that_fails_is_written_and_then_ends_the_plan(
    planned: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[Exception],
) -> None:
    failed = Check(
        engine="dni", stages=2, emulated=False, predicted=9.0, measured=None, reason="it broke", status=status
    )
    monkeypatch.setattr(plan, "run_checks", lambda *arguments: [failed])
    arguments = [*TINY, "--profile", str(planned[0] / "profile.json"), "--out", str(tmp_path), "--check"]
    monkeypatch.setattr("sys.argv", ["launch.plan", *arguments, "--quiet"])
    with pytest.raises(kind, match=r"^failed: dni in 2 stages; the table says why$"):
        plan.work(RankRunner())
    assert "- dni, 2 stages: it broke" in (tmp_path / "plan.md").read_text()


def test_layers_that_carry_state_cannot_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["launch.plan", "--task", "char-lm-stack"])
    with pytest.raises(UserError, match="those of char-lm-stack carry state from batch to batch"):
        plan.work(RankRunner())


def counts(layers: int, **settings: Any) -> set[int]:
    return {p.stages for p in predict(PlanConfig.of(engines=("local",), **settings), profile(layers))}


def test_stages_are_doubled_as_far_as_there_are_layers() -> None:
    assert counts(9) == {2, 4, 8}
    assert counts(3) == {2}


def test_the_numbers_of_stages_can_be_given() -> None:
    assert counts(9, stage_counts=(3, 9)) == {3, 9}
    assert counts(9, stages=5) == {5}


@pytest.mark.parametrize(
    ("layers", "settings", "line"),
    [
        (5, {"stages": 8}, "8 stages cannot share 5 layers; use 2 to 5, or --repeat-layers 8"),
        (
            5,
            {"stage_counts": (2, 1024)},
            "1024 stages cannot share 5 layers; use 2 to 5, or --repeat-layers 1024",
        ),
        (1, {}, "a network of 1 layer cannot be cut"),
    ],
)
def test_more_stages_than_layers_are_refused_in_one_line(
    layers: int, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as error:
        predict(PlanConfig.of(**settings), profile(layers))
    assert str(error.value) == line


def test_a_bad_profile_ends_the_process_with_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    done = run("launch.plan", *TINY, "--profile", str(tmp_path / "x.json"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"dni-async: {tmp_path}/x.json is no profile of launch.plan; measure one without --profile\n"
    )
