"""How decoupled stages are joined: how many messages are in flight, and in which format they travel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.config.train import TrainConfig
from tasks.vision.digits import DigitsFcn
from tests.support.forks import Job

BATCH, WIDTH = 64, 32


def summary_of(folder: Path, ranks: int, **settings: Any) -> dict[str, Any]:
    """The summary of a job that has ended well."""
    config = TrainConfig.of(**{"batch_size": BATCH, "epochs": 3, "cut": "1,2"} | settings)
    with Job(config, DigitsFcn(depth=3, width=WIDTH), ranks, folder) as job:
        assert job.statuses() == [0] * ranks, job.lines()
    summary: dict[str, Any] = json.loads((job.out / "summary.json").read_text())
    return summary


@pytest.mark.parametrize(
    ("wire", "float_bytes", "sample_bytes"), [("fp32", 4, 0), ("bf16", 2, 0), ("int8", 1, 4)]
)
def test_messages_travel_in_the_format_of_the_wire_and_stages_learn(
    tmp_path: Path, wire: str, float_bytes: int, sample_bytes: int
) -> None:
    summary = summary_of(tmp_path, 3, wire=wire, transport="tcp,shm", seed=1)
    sent = [stage["message_bytes"] for stage in summary["stages"]]
    rows = summary["stages"][0]["samples"] / summary["stages"][0]["steps"]  # the last batch is smaller
    activation, gradient = (
        rows * (WIDTH * float_bytes + sample_bytes + 8),
        rows * (WIDTH * float_bytes + sample_bytes),
    )
    assert sent[0] == {"downstream": pytest.approx(activation)}
    assert sent[1] == {"downstream": pytest.approx(activation), "upstream": pytest.approx(gradient)}
    assert sent[2] == {"upstream": pytest.approx(gradient)}
    assert summary["final"]["test_accuracy"] > 0.5


def test_within_a_host_four_messages_are_in_flight_and_nothing_is_counted(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, 3)
    assert summary["transports"] == ["shm", "shm"] and summary["in_flight"] == 4
    assert not any("message_bytes" in stage for stage in summary["stages"])


@pytest.mark.parametrize(
    ("settings", "in_flight"),
    [({"in_flight": 3}, {3}), ({"deterministic": True}, {4}), ({}, set(range(5, 65)))],
)
def test_between_hosts_there_are_more_unless_the_user_or_lockstep_says_how_many(
    tmp_path: Path, settings: dict[str, Any], in_flight: set[int]
) -> None:
    summary = summary_of(tmp_path, 2, transport="tcp", cut="2", epochs=1, **settings)
    assert summary["in_flight"] in in_flight
    assert summary["settings"]["in_flight"] == settings.get("in_flight", "auto")
