"""An advice from the command line: bad input, made-up measurements in this process, and one real run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dni_async.errors import UserError
from launch import advise
from launch.config.advise import AdviseConfig
from launch.planning import measure
from launch.planning.predict import ENGINES
from tests.support.jobs import TINY, run
from tests.support.plans import profile
from workers.failure.rank_runner import RankRunner

PRE = ("--task", "digits-fcn", "--quiet")


def summary(engine: str, speed: float, accuracy: float, repeats: int = 2) -> dict[str, Any]:
    """A row of a comparison."""
    runs = [{"test_accuracy": accuracy, "test_loss": 1 - accuracy} for _ in range(repeats)]
    spread = [speed, speed]
    return {
        "engine": engine,
        "speedup": speed,
        "speedup_spread": spread,
        "test_accuracy": accuracy,
        "runs": runs,
    }


def advised(
    monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str, speed: float = 2.0
) -> dict[str, Any]:
    """Advise from a made-up profile of 8 layers and a comparison in which every engine reached `speed`."""
    monkeypatch.setattr(measure, "measure", lambda config, task: profile(8))

    def compared(config: Any, contestants: Any, runner: Any, task: Any) -> Any:
        rows = [summary(e, 1.0 if e == "backprop" else speed, 0.9) for e in config.engines]
        return rows, {}

    learned = {"test_metric": 0.8, "test_loss": 0.2}
    monkeypatch.setattr(advise, "compare_contestants", compared)
    monkeypatch.setattr(advise, "learned_in_process", lambda *arguments: learned)
    monkeypatch.setattr("sys.argv", ["launch.advise", *PRE, "--out", str(out), "--stages", "2", *arguments])
    advise.work(RankRunner())
    return json.loads((out / "advise.json").read_text())


def test_the_page_and_the_data_of_an_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = advised(monkeypatch, tmp_path, "--devices", "4")
    assert [found["backprop"]["engine"], *(o["engine"] for o in found["options"])] == list(ENGINES)
    assert found["decision"]["kind"] == "take"
    by_name = {option["engine"]: option for option in found["options"]}
    assert by_name["cdni"]["predicted"] == 4.0  # layers alike, messages free
    assert by_name["cdni"]["predicted_here"] == by_name["cdni"]["measured"] == 2.0
    assert by_name["cdni"]["cost_there"] == pytest.approx(10.0)
    assert found["decision"]["option"]["engine"] not in ("dni", "cdni", "local", "delayed")
    text = (tmp_path / "advise.md").read_text()
    assert text.split("\n")[2] == found["sentences"][0]
    assert {"advise.json", "advise.md", "config.yaml", "profile.json"} <= {p.name for p in tmp_path.iterdir()}


def test_an_engine_has_as_many_devices_as_layers_with_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = advised(monkeypatch, tmp_path, "--devices", "16", "--engines", "ddp", "cdni")
    assert {o["engine"]: o["devices"] for o in found["options"]} == {"ddp": 16, "cdni": 8}


def test_the_runs_have_the_updates_that_are_asked_for() -> None:
    few = AdviseConfig.of(updates=100).comparison(2, steps_per_epoch=6)
    assert (few.task.epochs, few.data.steps_per_epoch) == (17, 0)
    many = AdviseConfig.of(updates=100).comparison(2, steps_per_epoch=234)
    assert (many.task.epochs, many.data.steps_per_epoch) == (1, 100)
    as_given = AdviseConfig.of(updates=0, epochs=3).comparison(4, steps_per_epoch=234)
    assert (as_given.task.epochs, as_given.partition.stages) == (3, 4)


def test_backprop_always_runs() -> None:
    assert AdviseConfig.of(engines=("cdni",)).comparison(2, 6).engines == ("backprop", "cdni")


def test_hosts_that_are_joined_by_a_network_talk_over_tcp() -> None:
    assert AdviseConfig.of(link="ethernet").runtime.transport == "tcp"
    assert AdviseConfig.of(link="pcie").runtime.transport == "auto"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--devices", "1"), "devices is 1; it must be at least 2"),
        (("--devices", "1025"), "devices is 1025; it must be at most 1024"),
        (("--link", "rope"), r"unknown link \(rope\); use nvlink, pcie, ethernet, or wan:50ms,100mbit"),
        (("--link", "wan:50,100"), r"link is wan:50,100; write wan:LATENCY,RATE \(one way\)"),
        (("--stages", "1"), "stages is 1; an advice runs at least 2 stages on this machine"),
        (("--variants", "cdni"), "variants are for launch.compare"),
        (("--wan", "25,1000"), "wan is 25,1000; an advice takes --link"),
        (("--engines", "copies"), r"unknown engine \(copies\)"),
        (("--task", "copy"), "copy is a task over time"),
        (("--task", "char-lm-stack"), "char-lm-stack carry state from batch to batch"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], line: str
) -> None:
    monkeypatch.setattr("sys.argv", ["launch.advise", *PRE, *arguments])
    with pytest.raises(UserError, match=line) as refused:
        advise.work(RankRunner())
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_advice_has_a_page_and_the_error_of_its_prediction(tmp_path: Path) -> None:
    arguments = ("--engines", "ddp", "cdni", "--devices", "3", "--updates", "40", "--repeats", "1")
    done = run("launch.advise", *TINY, *arguments, "--out", str(tmp_path), timeout=290)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "advise.json").read_text())
    assert (tmp_path / "advise.md").read_text().split("\n")[2] == found["sentences"][0]
    assert found["sentences"][0] in done.stdout
    for option in found["options"]:
        assert option["measured"] > 0 and option["predicted"] > 0 and option["predicted_here"] > 0
    assert (tmp_path / "compare" / "compare.md").exists()
