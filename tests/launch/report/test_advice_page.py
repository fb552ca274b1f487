"""The sentences of an advice, from made-up measurements."""

from __future__ import annotations

from typing import Any

from launch.planning.advice import Option
from launch.report.advice_page import Advice, advice_grid, page, sentences

BACKPROP = Option(
    engine="backprop", devices=1, predicted=1.0, measured=1.0, predicted_here=1.0, memory_bytes=20_000_000
)
WHERE = "on 8 devices joined by pcie"


def option(engine: str = "cdni", **changes: Any) -> Option:
    known = {
        "devices": 8,
        "predicted": 3.0,
        "memory_bytes": 5_000_000,
        "measured": 1.5,
        "spread": (1.425, 1.575),
        "predicted_here": 1.8,
        "metric": 0.97,
        "cost_here": 0.2,
        "cost_there": 0.3,
    }
    return Option(engine=engine, **known | changes)


def advice(*options: Option, **changes: Any) -> Advice:
    known = {
        "title": "mnist-fcn, 7 layers, batch 256",
        "devices": 8,
        "link": "pcie",
        "stages": 2,
        "repeats": 2,
        "updates": 100,
        "metric_name": "accuracy",
        "noise": 0.5,
        "backprop": BACKPROP,
        "options": options,
    }
    return Advice(**known | changes)


def test_an_engine_that_pays_is_named_with_gain_cost_memory_and_certainty() -> None:
    assert sentences(advice(option())) == [
        f"Take cdni: {WHERE} it is expected to train 2.38 to 3.15 times as fast as backprop on one of them.",
        "Cost in learning, in 8 stages: 0.3 points of accuracy fewer than backprop after 100 updates, within "
        "the noise of 0.5; after a whole training it may be another.",
        "Memory (weights, gradients, optimizer, activations, messages): predicted 5.0 MB on the device that "
        "holds most, 20.0 MB for backprop.",
        "How sure: with 2 stages on this machine the same prediction was +20 % off (predicted 1.80 x, "
        "measured 1.50 x), and the 2 runs lay -5 to +5 % beside their median. The range covers both; that "
        "your devices differ from this machine it does not cover.",
    ]


def test_engines_whose_ranges_overlap_are_named() -> None:
    lines = sentences(advice(option(), option("delayed", predicted=2.9)))
    assert lines[-1] == "Within what the measurements allow, delayed cannot be told apart from it."


def test_devices_that_an_engine_cannot_use_are_said() -> None:
    first = sentences(advice(option(devices=4)))[0]
    assert first.endswith("as fast as backprop on one of them (it can use 4).")


def test_backprop_stays_where_nothing_pays() -> None:
    slow = option(predicted=0.9, predicted_here=1.5, spread=(1.5, 1.5))
    assert sentences(advice(slow)) == [
        f"Stay with backprop: {WHERE} no engine is expected to be 10 % faster; the best, cdni, is expected "
        "at 0.90 times its speed."
    ]


def test_what_is_too_uncertain_is_not_advised() -> None:
    first, *_, sure = sentences(advice(option(predicted=1.6, predicted_here=3.0, spread=(1.5, 1.5))))
    assert first == (
        f"Stay with backprop until you can measure {WHERE}: cdni is expected at 0.80 to 1.60 times its "
        "speed, which is too uncertain to say that it pays."
    )
    assert "the same prediction was +100 % off" in sure


def test_an_engine_that_learns_worse_is_named_with_its_cost() -> None:
    assert sentences(advice(option(cost_there=4.0)))[0] == (
        "Stay with backprop: cdni learns worse (4.0 points of accuracy fewer than backprop after 100 "
        f"updates), although {WHERE} it is expected to train 2.38 to 3.15 times as fast as backprop on one "
        "of them, and no engine that learns as well pays."
    )


def test_the_cost_of_another_metric_is_that_of_the_loss() -> None:
    lines = sentences(advice(option(cost_there=-0.2), metric_name="perplexity"))
    assert lines[1].startswith(
        "Cost in learning, in 8 stages: -0.2 % test loss after 100 updates, against backprop, within the"
    )


def test_a_busy_machine_is_said_above_the_table() -> None:
    last = sentences(advice(option(), load=["other programs kept 1.5 of 2 cores busy"]))[-1]
    assert last == "Repeat this on an idle machine: other programs kept 1.5 of 2 cores busy."


def test_backprop_stays_where_every_other_engine_failed() -> None:
    lines = sentences(advice(Option(engine="cdni", reason="it broke")))
    assert lines == [
        "Stay with backprop: no other engine could be measured and predicted for 8 devices joined by pcie."
    ]


def test_the_error_of_the_planner_stands_beside_every_extrapolation() -> None:
    grid = advice_grid(advice(option(), Option(engine="zb", reason="it broke")))
    columns = {column.head.replace("\n", " "): column.cells for column in grid.columns}
    assert columns["engine"] == ["backprop", "cdni", "zb"]
    assert columns["expected speed-up"] == ["-", "2.38 to 3.15 x", "-"]
    assert columns["planner's speed-up"] == ["1.00 x", "3.00 x", "-"]
    assert columns["planner's error with 2 here"] == ["+0 %", "+20 %", "-"]
    assert columns["min-max"] == ["-", "1.43-1.57", "-"]
    assert columns["worse by in 8 stages"] == ["-", "+0.3", "-"]
    assert grid.notes[-1] == "zb: it broke"


def test_the_page_begins_with_what_to_do() -> None:
    lines = page(advice(option())).split("\n")
    assert lines[0] == "# mnist-fcn, 7 layers, batch 256, 8 devices joined by pcie"
    assert lines[2].startswith("Take cdni: ")
    assert any(line.startswith("| cdni | 8 | 2.38 to 3.15 x |") for line in lines)
