"""Before a run its summary says what shall run, and on what machine."""

from __future__ import annotations

from typing import Any

import pytest

from launch.config.flat import FlatConfig
from launch.config.recurrent import SequenceConfig
from launch.config.train import TrainConfig
from launch.report.metadata import initial_summary, run_metadata
from tests.support.tiny_task import Tiny, context_of


def at_the_start(start: int = 0, **settings: Any) -> dict[str, Any]:
    context = context_of(Tiny(), TrainConfig.of(**settings))
    context.plan.start = start
    return initial_summary(context)


@pytest.mark.parametrize(
    ("config", "of_its_kind"), [(TrainConfig.of(lr=0.25), "rule"), (SequenceConfig.of(lr=0.25), "bptt")]
)
def test_metadata_holds_settings_versions_and_hardware(config: FlatConfig, of_its_kind: str) -> None:
    summary = run_metadata("copy", "dni", 0, config.as_json())
    assert (summary["task"], summary["rule"], summary["seed"]) == ("copy", "dni", 0)
    assert summary["settings"]["lr"] == 0.25 and of_its_kind in summary["settings"]
    assert summary["settings"]["sg"]["units"] == "sample"
    assert summary["versions"].keys() == {"dni_async", "torch", "numpy", "python"}
    assert summary["versions"]["torch"].startswith("2.")
    assert summary["hardware"]["cores"] >= 1 and summary["hardware"]["memory_gib"] > 0
    assert summary["hardware"]["cpu"]


def test_backprop_has_no_rule() -> None:
    summary = at_the_start(engine="backprop", rule="cdni")
    assert (summary["engine"], summary["rule"]) == ("backprop", None)


def test_values_that_are_not_known_yet_are_none_or_empty() -> None:
    summary = at_the_start(until=0.9)
    assert summary["samples_per_s"] is summary["train_s"] is summary["checkpoints"]["resumed_at"] is None
    assert summary["epochs"] == summary["evaluations"] == summary["stages"] == []
    assert {key for key, value in summary["until"].items() if value is not None} == {"accuracy"}
    assert at_the_start()["until"] is None
    assert at_the_start(start=7)["checkpoints"]["resumed_at"] == 7
